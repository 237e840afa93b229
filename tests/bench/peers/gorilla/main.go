// The peer gorilla: a WebSocket echo server over mutual TLS 1.3 without tickets, as its documents write one.
//
// It prints its port as JSON, ends when its standard input does, and on SIGUSR1 collects its garbage twice
// (default settings), on SIGUSR2 also gives the memory back to the system; it answers each by a line.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/gorilla/websocket"
)

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

func echo(w http.ResponseWriter, r *http.Request) {
	connection, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	for {
		kind, message, err := connection.ReadMessage()
		if err != nil {
			return
		}
		if connection.WriteMessage(kind, message) != nil {
			return
		}
	}
}

func collectOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	for received := range signals {
		runtime.GC()
		runtime.GC()
		if received == syscall.SIGUSR2 {
			debug.FreeOSMemory()
		}
		fmt.Println("collected")
	}
}

func main() {
	folder := flag.String("certificates", "", "folder with the Console's and Defender CA's files")
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*folder+"/defender-server-cert.pem", *folder+"/defender-server-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	anchors, err := os.ReadFile(*folder + "/defender-ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(anchors)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go collectOnSignal()
	server := &http.Server{
		Handler:  http.HandlerFunc(echo),
		ErrorLog: log.New(io.Discard, "", 0),
		// WebSocket wants HTTP/1.1.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		TLSConfig: &tls.Config{
			Certificates:           []tls.Certificate{pair},
			ClientAuth:             tls.RequireAndVerifyClientCert,
			ClientCAs:              clients,
			MinVersion:             tls.VersionTLS13,
			SessionTicketsDisabled: true,
		},
	}
	fmt.Printf("{\"port\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	go func() {
		// Whoever started this holds the other end: no server is left behind, however it ended.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(server.ServeTLS(listener, "", ""))
}
