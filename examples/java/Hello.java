// A go-micro service written as a plain HTTP server: Say.Hello, with nothing but the Java platform.
//
// Serve:   MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 \
//            micro-sidecar run -- java Hello.java
// Call:    java Hello.java call World          (through the sidecar at localhost:8081)

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Hello {
    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0 && arguments[0].equals("call")) {
            call(arguments.length > 1 ? arguments[1] : "World");
        } else {
            serve(System.getenv().getOrDefault("MICRO_APP_ADDRESS", "127.0.0.1:9090"));
        }
    }

    static void serve(String address) throws IOException {
        int colon = address.lastIndexOf(':');
        int port = Integer.parseInt(address.substring(colon + 1));
        HttpServer server = HttpServer.create(new InetSocketAddress(address.substring(0, colon), port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
            String path = exchange.getRequestURI().getPath();
            if (exchange.getRequestMethod().equals("GET")) {
                reply(exchange, 200, "{\"status\":\"ok\"}"); // for MICRO_APP_HEALTH=/health
            } else if (path.equals("/Say/Hello")) { // the framework's call Say.Hello
                reply(exchange, 200, "{\"msg\":\"Hello " + text(body, "name", "World") + "\"}");
            } else {
                reply(exchange, 404, "{\"detail\":\"there is no such method\"}");
            }
        });
        server.start();
    }

    static void reply(HttpExchange exchange, int status, String json) throws IOException {
        byte[] body = json.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    static void call(String name) throws Exception {
        String sidecar = System.getenv().getOrDefault("MICRO_SIDECAR_ADDRESS", "localhost:8081");
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + sidecar + "/hello/say/hello"))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString("{\"name\":\"" + name.replaceAll("([\"\\\\])", "\\\\$1") + "\"}"))
            .build();
        HttpResponse<String> reply = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        if (reply.statusCode() != 200) {
            System.err.println(reply.body());
            System.exit(1);
        }
        System.out.println(text(reply.body(), "msg", ""));
    }

    /** A member's text as JSON has it, escapes and all. The platform has no JSON; an app of yours has a library. */
    static String text(String json, String member, String otherwise) {
        Matcher found = Pattern.compile("\"" + member + "\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)+)\"").matcher(json);
        return found.find() ? found.group(1) : otherwise;
    }
}
