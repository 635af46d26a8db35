#!/usr/bin/env bash
# A go-micro service written in shell: Say.Hello, with bash, socat for the socket and curl for the call.
#
# Serve:   MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 \
#            micro-sidecar run -- bash hello.sh
# Call:    bash hello.sh call World          (through the sidecar at localhost:8081)

say_hello() { # the request's JSON -> the reply's JSON
  local name=World
  # The name stays escaped as it came, so it is put back into JSON as it is.
  [[ $1 =~ \"name\"[[:space:]]*:[[:space:]]*\"(([^\"\\]|\\.)+)\" ]] && name=${BASH_REMATCH[1]}
  printf '{"msg":"Hello %s"}' "$name"
}

reply() { # status, JSON
  local LC_ALL=C # so that a length is in bytes
  printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
    "$1" "${#2}" "$2"
}

answer() { # one request on standard input, its reply on standard output
  local LC_ALL=C method path version line length=0 body=
  read -r method path version || exit 0
  while IFS= read -r line && line=${line%$'\r'} && [[ -n $line ]]; do
    [[ ${line,,} =~ ^content-length:[[:space:]]*([0-9]{1,7})$ ]] && length=${BASH_REMATCH[1]}
  done
  ((length > 0)) && IFS= read -r -N "$length" body
  case "$method $path" in
    "POST /Say/Hello") reply "200 OK" "$(say_hello "$body")" ;; # the framework's call Say.Hello
    "GET "*) reply "200 OK" '{"status":"ok"}' ;;                # for MICRO_APP_HEALTH=/health
    *) reply "404 Not Found" '{"detail":"no such method"}' ;;
  esac
}

case ${1:-serve} in
  serve)
    address=${MICRO_APP_ADDRESS:-127.0.0.1:9090}
    exec socat "TCP-LISTEN:${address##*:},bind=${address%:*},reuseaddr,fork" "EXEC:bash '$0' answer"
    ;;
  answer) answer ;;
  call)
    shift
    name=${*:-World} name=${name//\\/\\\\} name=${name//\"/\\\"}
    curl -sS --fail-with-body -H 'Content-Type: application/json' -d "{\"name\":\"$name\"}" \
      "http://${MICRO_SIDECAR_ADDRESS:-localhost:8081}/hello/say/hello" && echo
    ;;
  *) echo "usage: hello.sh [serve | call NAME]" >&2 && exit 64 ;;
esac
