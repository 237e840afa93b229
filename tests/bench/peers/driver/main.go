// The driver: opens connections to any of the servers under test, in one process on one core.
//
// Three depths: `http` is TLS and one HTTP answer (nginx), `upgrade` is TLS and the WebSocket upgrade, `hello`
// goes on through Challenge and a signed Hello to the Welcome. It knows the channel from its documents only
// and shares no code with Garrison: a foreign Defender.
//
// Two modes: `rate` opens, completes and closes connections in a closed loop and prints what it counted; `hold`
// opens a number of them, says so, and keeps them until its standard input ends.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	subprotocol = "garrison.defender.v1"
	context     = "garrison.defender.v1 hello"
	upgrade     = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: " + subprotocol + "\r\nSec-WebSocket-Key: "
	get     = "GET / HTTP/1.1\r\nHost: localhost\r\n"
	patient = 10 * time.Second
	// Not a Linux name of package syscall in Go 1.19: ip(7), since Linux 4.2.
	bindAddressNoPort = 24
)

// A key is a Defender's identity.
type identity struct {
	key    *ecdsa.PrivateKey
	public []byte
	name   string
}

type driver struct {
	address    string
	depth      string
	tls        *tls.Config
	identities []identity
}

// One connection, from its TCP handshake to the last answer of its depth.
func (d *driver) open(source net.IP, who *identity, keep bool) (*tls.Conn, *bufio.Reader, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: source}, Timeout: patient, Control: withoutPort}
	plain, err := dialer.Dial("tcp", d.address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	connection := tls.Client(plain, d.tls)
	_ = connection.SetDeadline(time.Now().Add(patient))
	reader := bufio.NewReaderSize(connection, 1024)
	if err := connection.Handshake(); err != nil {
		plain.Close()
		return nil, nil, fmt.Errorf("TLS: %w", err)
	}
	if err := d.talk(connection, reader, who, keep); err != nil {
		plain.Close()
		return nil, nil, err
	}
	return connection, reader, nil
}

// The kernel picks the port at connect, by all four parts of the connection's name: a source address can be
// used again at once, whatever waits in TIME_WAIT.
func withoutPort(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(descriptor uintptr) {
		failed = syscall.SetsockoptInt(int(descriptor), syscall.SOL_IP, bindAddressNoPort, 1)
	})
	if err != nil {
		return err
	}
	return failed
}

func (d *driver) talk(connection *tls.Conn, reader *bufio.Reader, who *identity, keep bool) error {
	if d.depth == "http" {
		return request(connection, reader, keep)
	}
	if err := upgraded(connection, reader); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if d.depth == "upgrade" {
		return nil
	}
	if err := hello(connection, reader, who); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	return nil
}

func request(connection io.Writer, reader *bufio.Reader, keep bool) error {
	ending := "Connection: close\r\n\r\n"
	if keep {
		ending = "\r\n"
	}
	if _, err := io.WriteString(connection, get+ending); err != nil {
		return fmt.Errorf("http: %w", err)
	}
	status, length, err := head(reader)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		return fmt.Errorf("http: %s", status)
	}
	_, err = io.CopyN(io.Discard, reader, int64(length))
	return err
}

func upgraded(connection io.Writer, reader *bufio.Reader) error {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	_, err := io.WriteString(connection, upgrade+base64.StdEncoding.EncodeToString(nonce[:])+"\r\n\r\n")
	if err != nil {
		return err
	}
	status, _, err := head(reader)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return errors.New(strings.TrimSpace(status))
	}
	return nil
}

// The status line and the body's length of an answer; the reader then stands after its head.
func head(reader *bufio.Reader) (status string, length int, err error) {
	status, err = reader.ReadString('\n')
	for err == nil {
		var line string
		line, err = reader.ReadString('\n')
		if line == "\r\n" {
			return status, length, nil
		}
		if len(line) > 16 && strings.EqualFold(line[:16], "content-length: ") {
			_, _ = fmt.Sscan(line[16:], &length)
		}
	}
	return status, length, err
}

// Answer the Challenge by a signed Hello and wait for the Welcome.
func hello(connection *tls.Conn, reader *bufio.Reader, who *identity) error {
	var challenge struct {
		Kind  string
		Nonce []byte
	}
	if err := receive(reader, &challenge); err != nil {
		return err
	}
	if challenge.Kind != "challenge" {
		return fmt.Errorf("got %q for a challenge", challenge.Kind)
	}
	leaf := sha256.Sum256(connection.ConnectionState().PeerCertificates[0].Raw)
	message, err := who.hello(challenge.Nonce, leaf[:])
	if err != nil {
		return err
	}
	if err := send(connection, message); err != nil {
		return err
	}
	var answer struct{ Kind string }
	if err := receive(reader, &answer); err != nil {
		return err
	}
	if answer.Kind != "welcome" {
		return fmt.Errorf("got %q for a welcome", answer.Kind)
	}
	return nil
}

func (i *identity) hello(nonce, leaf []byte) ([]byte, error) {
	body := fmt.Sprintf(`{"hostname":"%s","fqdn":"%s.bench.test","version":"0.1.0","type":"daemonset","os":"linux",`+
		`"arch":"amd64","spool":{"epoch":"e-%s","first":1,"next":1,"dropped":0}}`, i.name, i.name, i.name)
	public, claims := sha256.Sum256(i.public), sha256.Sum256([]byte(body))
	transcript := sha256.New()
	for _, part := range [][]byte{[]byte(context), nonce, leaf, public[:], claims[:]} {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		transcript.Write(length[:])
		transcript.Write(part)
	}
	signature, err := ecdsa.SignASN1(rand.Reader, i.key, transcript.Sum(nil))
	if err != nil {
		return nil, err
	}
	encoding := base64.StdEncoding
	return []byte(fmt.Sprintf(`{"kind":"hello","instanceKey":"%s","signature":"%s","body":%s}`,
		encoding.EncodeToString(i.public), encoding.EncodeToString(signature), body)), nil
}

// One text message in one masked frame (RFC 6455 §5.2, §5.3).
func send(writer io.Writer, message []byte) error {
	frame := make([]byte, 0, len(message)+14)
	switch {
	case len(message) < 126:
		frame = append(frame, 0x81, 0x80|byte(len(message)))
	case len(message) < 1<<16:
		frame = append(frame, 0x81, 0x80|126, byte(len(message)>>8), byte(len(message)))
	default:
		return errors.New("message too long for this driver")
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:])
	frame = append(frame, mask[:]...)
	for position, value := range message {
		frame = append(frame, value^mask[position&3])
	}
	_, err := writer.Write(frame)
	return err
}

// The next text message; a close frame is an error that names its code.
func receive(reader *bufio.Reader, into any) error {
	var header [4]byte
	if _, err := io.ReadFull(reader, header[:2]); err != nil {
		return err
	}
	length := int(header[1] & 0x7f)
	if length == 126 {
		if _, err := io.ReadFull(reader, header[2:]); err != nil {
			return err
		}
		length = int(binary.BigEndian.Uint16(header[2:]))
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(reader, payload); err != nil {
		return err
	}
	if header[0] == 0x88 && length >= 2 {
		return fmt.Errorf("closed with %d %s", binary.BigEndian.Uint16(payload), payload[2:])
	}
	return json.Unmarshal(payload, into)
}

type result struct {
	Opened    int            `json:"opened"`
	Failed    map[string]int `json:"failed"`
	Seconds   float64        `json:"seconds"`
	ServerCPU float64        `json:"server_cpu"`
	DriverCPU float64        `json:"driver_cpu"`
	P50       float64        `json:"p50"`
	P99       float64        `json:"p99"`
	Total     int            `json:"total"`
}

// What one worker saw within the window.
type tally struct {
	waits  []float64
	failed map[string]int
	total  int
}

func (d *driver) rate(concurrency int, warm, window time.Duration, server int) result {
	start := time.Now().Add(warm)
	end := start.Add(window)
	tallies := make([]tally, concurrency)
	var workers sync.WaitGroup
	for number := range tallies {
		workers.Add(1)
		go func(number int) {
			defer workers.Done()
			d.work(number, concurrency, start, end, &tallies[number])
		}(number)
	}
	time.Sleep(time.Until(start))
	began, servers, drivers := time.Now(), cpu(server), cpu(os.Getpid())
	time.Sleep(time.Until(end))
	found := result{
		Seconds:   time.Since(began).Seconds(),
		ServerCPU: cpu(server) - servers,
		DriverCPU: cpu(os.Getpid()) - drivers,
		Failed:    map[string]int{},
	}
	workers.Wait()
	found.add(tallies)
	return found
}

func (d *driver) work(number, concurrency int, start, end time.Time, into *tally) {
	into.failed = map[string]int{}
	source := source(number)
	// Each worker has identities of its own: no Defender is connected twice at a time.
	for turn := number; time.Now().Before(end); turn += concurrency {
		began := time.Now()
		connection, _, err := d.open(source, &d.identities[turn%len(d.identities)], false)
		ended := time.Now()
		if err == nil {
			connection.Close()
		}
		into.total++
		if ended.Before(start) || ended.After(end) {
			continue
		}
		if err != nil {
			into.failed[err.Error()]++
			continue
		}
		into.waits = append(into.waits, ended.Sub(began).Seconds())
	}
}

func (r *result) add(tallies []tally) {
	var waits []float64
	for _, each := range tallies {
		waits = append(waits, each.waits...)
		r.Total += each.total
		for reason, count := range each.failed {
			r.Failed[reason] += count
		}
	}
	r.Opened = len(waits)
	if sort.Float64s(waits); len(waits) > 0 {
		r.P50, r.P99 = waits[len(waits)/2], waits[len(waits)*99/100]
	}
}

// Open `count` connections and keep them; the first failure ends it.
func (d *driver) hold(count, concurrency int) {
	kept := make([]*tls.Conn, count)
	var workers sync.WaitGroup
	for number := 0; number < concurrency; number++ {
		workers.Add(1)
		go func(number int) {
			defer workers.Done()
			for turn := number; turn < count; turn += concurrency {
				connection, _, err := d.open(source(turn), &d.identities[turn%len(d.identities)], true)
				if err != nil {
					log.Fatal(err)
				}
				_ = connection.SetDeadline(time.Time{})
				kept[turn] = connection
			}
		}(number)
	}
	workers.Wait()
	fmt.Printf("{\"held\": %d}\n", len(kept))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// Connections come from many addresses of the loopback network, as Defenders do.
func source(number int) net.IP {
	return net.IPv4(127, 1, byte(number/250%250), byte(number%250+1))
}

// Seconds of CPU that a process has used, its threads together: fields 14 and 15 of proc(5)'s stat, in ticks of
// 10 ms.
func cpu(process int) float64 {
	if process == 0 {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process))
	if err != nil {
		log.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system float64
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	return (user + system) / 100
}

// The identities of a file of 32-byte P-256 scalars, which load.py reads and writes, too.
func identities(path string) []identity {
	scalars, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	found := make([]identity, len(scalars)/32)
	for number := range found {
		scalar := scalars[number*32 : number*32+32]
		key := &ecdsa.PrivateKey{D: new(big.Int).SetBytes(scalar)}
		key.Curve = elliptic.P256()
		key.X, key.Y = key.Curve.ScalarBaseMult(scalar)
		public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			log.Fatal(err)
		}
		found[number] = identity{key, public, fmt.Sprintf("bench-%05d", number)}
	}
	return found
}

func clientTLS(folder string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(folder+"/defender-client-cert.pem", folder+"/defender-client-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	anchors, err := os.ReadFile(folder + "/defender-ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(anchors)
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ServerName:   "localhost",
		MinVersion:   tls.VersionTLS13,
	}
}

func main() {
	// The collector's pauses are no part of what is measured.
	debug.SetGCPercent(400)
	address := flag.String("address", "", "host:port of the server")
	depth := flag.String("depth", "upgrade", "http, upgrade or hello")
	folder := flag.String("certificates", "", "folder with the Defender's files")
	keys := flag.String("identities", "", "file of instance keys")
	concurrency := flag.Int("concurrency", 48, "connections being opened at a time")
	warm := flag.Duration("warm", 500*time.Millisecond, "time before the window")
	window := flag.Duration("window", 4*time.Second, "time that is measured")
	server := flag.Int("server", 0, "process whose CPU time is read")
	held := flag.Int("hold", 0, "open that many and keep them until standard input ends")
	flag.Parse()
	log.SetFlags(0)
	d := &driver{*address, *depth, clientTLS(*folder), identities(*keys)}
	if *held > 0 {
		d.hold(*held, *concurrency)
		return
	}
	found := d.rate(*concurrency, *warm, *window, *server)
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}
