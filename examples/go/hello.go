// A service of a go-micro system written as a plain HTTP server: Say.Hello, with nothing but Go's standard library.
//
// Serve:   go build hello.go
//
//	MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 micro-sidecar run -- ./hello
//
// Call:    ./hello call World          (through the sidecar at localhost:8081)
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func sayHello(request map[string]any) map[string]any {
	name, _ := request["name"].(string)
	if name == "" {
		name = "World"
	}
	return map[string]any{"msg": "Hello " + name}
}

func reply(writer http.ResponseWriter, status int, answer map[string]any) {
	writer.Header().Set("Content-Type", "application/json")
	writer.WriteHeader(status)
	json.NewEncoder(writer).Encode(answer)
}

func serve(address string) {
	// The framework's call Say.Hello arrives as POST /Say/Hello.
	http.HandleFunc("/Say/Hello", func(writer http.ResponseWriter, incoming *http.Request) {
		request := map[string]any{}
		if err := json.NewDecoder(incoming.Body).Decode(&request); err != nil && err != io.EOF {
			reply(writer, 400, map[string]any{"detail": "not JSON: " + err.Error()})
			return
		}
		reply(writer, 200, sayHello(request))
	})
	http.HandleFunc("/health", func(writer http.ResponseWriter, _ *http.Request) {
		reply(writer, 200, map[string]any{"status": "ok"}) // for MICRO_APP_HEALTH=/health
	})
	log.Fatal(http.ListenAndServe(address, nil))
}

func call(name string) error {
	body, err := json.Marshal(map[string]any{"name": name})
	if err != nil {
		return err
	}
	sidecar := setting("MICRO_SIDECAR_ADDRESS", "localhost:8081")
	answer, err := http.Post("http://"+sidecar+"/hello/say/hello", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	var decoded struct{ Msg string }
	if err := json.NewDecoder(answer.Body).Decode(&decoded); err != nil {
		return err
	}
	fmt.Println(decoded.Msg)
	return nil
}

func setting(key, otherwise string) string {
	if value := os.Getenv(key); value != "" {
		return value
	}
	return otherwise
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "call" {
		name := "World"
		if len(os.Args) > 2 {
			name = os.Args[2]
		}
		if err := call(name); err != nil {
			log.Fatal(err)
		}
		return
	}
	serve(setting("MICRO_APP_ADDRESS", "127.0.0.1:9090"))
}
