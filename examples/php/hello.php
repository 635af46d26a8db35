<?php
// A go-micro service written as a plain HTTP server: Say.Hello, with nothing but PHP itself.
//
// Serve:   MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 \
//            micro-sidecar run -- php hello.php
// Call:    php hello.php call World          (through the sidecar at localhost:8081)

function answer(int $status, array $answer): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($answer, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
}

function handle(string $path): void
{
    if ($_SERVER['REQUEST_METHOD'] === 'GET') {
        answer(200, ['status' => 'ok']); // for MICRO_APP_HEALTH=/health
    } elseif ($path !== '/Say/Hello') { // the framework's call Say.Hello
        answer(404, ['detail' => 'no method ' . $path]);
    } else {
        $request = json_decode(file_get_contents('php://input'), true);
        answer(200, ['msg' => 'Hello ' . (($request['name'] ?? '') ?: 'World')]);
    }
}

function call(string $name): void
{
    $sidecar = getenv('MICRO_SIDECAR_ADDRESS') ?: 'localhost:8081';
    $reply = file_get_contents("http://$sidecar/hello/say/hello", false, stream_context_create(['http' => [
        'method' => 'POST',
        'header' => 'Content-Type: application/json',
        'content' => json_encode(['name' => $name]),
        'ignore_errors' => true,
    ]]));
    $answer = json_decode((string) $reply, true);
    if (!isset($answer['msg'])) {
        fwrite(STDERR, $reply . "\n");
        exit(1);
    }
    echo $answer['msg'], "\n";
}

if (PHP_SAPI === 'cli-server') {
    handle(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
} elseif (($argv[1] ?? '') === 'call') {
    call($argv[2] ?? 'World');
} else {
    // PHP's own server runs this file for every request.
    pcntl_exec(PHP_BINARY, ['-S', getenv('MICRO_APP_ADDRESS') ?: '127.0.0.1:9090', __FILE__]);
}
