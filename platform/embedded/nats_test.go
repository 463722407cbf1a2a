package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func startTestNATS(t *testing.T, cfg NATSConfig) *NATS {
	t.Helper()
	n, err := StartNATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	return n
}

func connectJetStream(t *testing.T, n *NATS) jetstream.JetStream {
	t.Helper()
	nc, err := n.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func publish(ctx context.Context, js jetstream.JetStream, count int) error {
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	if err != nil {
		return err
	}
	for i := range count {
		if _, err := js.Publish(ctx, "orders.placed", fmt.Appendf(nil, "order %d", i)); err != nil {
			return err
		}
	}
	return nil
}

func wantMessages(t *testing.T, js jetstream.JetStream, want int) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != uint64(want) {
		t.Fatalf("stream has %d messages, want %d", got, want)
	}
	msg, err := stream.GetMsg(t.Context(), uint64(want))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(msg.Data), fmt.Sprintf("order %d", want-1); got != want {
		t.Fatalf("last message is %q, want %q", got, want)
	}
}

func TestNATSRestartKeepsStreamAndMessages(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		cfg := NATSConfig{StoreDir: t.TempDir(), NoSync: noSync}
		n := startTestNATS(t, cfg)
		if err := publish(t.Context(), connectJetStream(t, n), 20); err != nil {
			t.Fatal(err)
		}
		if n.URL() != "" {
			t.Errorf("a server that does not listen has the URL %q", n.URL())
		}
		n.Stop()
		n.Stop()
		wantMessages(t, connectJetStream(t, startTestNATS(t, cfg)), 20)
	}
}

// A server without this acknowledges up to two minutes before it has written.
func TestNATSSyncsBeforeItAcknowledges(t *testing.T) {
	n := startTestNATS(t, NATSConfig{StoreDir: t.TempDir()})
	if !n.server.JetStreamConfig().SyncAlways {
		t.Error("the server in this process does not")
	}
	t.Setenv("NATS_TOKEN", "token")
	shipped, err := server.ProcessConfigFile(filepath.Join("testdata", "linked", "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !shipped.SyncAlways {
		t.Error("the server of deployments/docker/nats.conf does not")
	}
}

// ownNATS is the part of a process that crashes while it owns a store.
func ownNATS(args []string) error {
	n, err := StartNATS(NATSConfig{StoreDir: args[0]})
	if err != nil {
		return err
	}
	nc, err := n.Connect()
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if err := publish(context.Background(), js, 20); err != nil {
		return err
	}
	fmt.Println("published")
	holdUntilKilled()
	return nil
}

func TestNATSKeepsAckedMessagesOfKilledOwner(t *testing.T) {
	dir := t.TempDir()
	owner := startHelper(t, "own-nats", dir)
	owner.line(t)
	if _, err := StartNATS(NATSConfig{StoreDir: dir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("start beside a live owner: %v, want ErrInUse", err)
	}
	owner.kill9(t)
	wantMessages(t, connectJetStream(t, startTestNATS(t, NATSConfig{StoreDir: dir})), 20)
}

func TestNATSListensWithPassword(t *testing.T) {
	n := startTestNATS(t, NATSConfig{StoreDir: t.TempDir(), NoSync: true, Listen: "127.0.0.1:0"})
	u, err := url.Parse(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	if host, port, err := net.SplitHostPort(u.Host); err != nil || host != "127.0.0.1" || port == "0" {
		t.Fatalf("URL has the host %q", u.Host)
	}
	over, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatalf("connect with the URL: %v", err)
	}
	defer over.Close()
	within, err := n.Connect()
	if err != nil {
		t.Fatalf("connect in-process: %v", err)
	}
	defer within.Close()
	sub, err := within.SubscribeSync("greeting")
	if err != nil {
		t.Fatal(err)
	}
	if err := within.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := over.Publish("greeting", make([]byte, 1<<20)); err != nil {
		t.Fatalf("publish 1 MiB: %v", err)
	}
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}

	u.User = nil
	if nc, err := nats.Connect(u.String()); err == nil {
		nc.Close()
		t.Error("connected without a password")
	}
}

func TestNATSStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		name string
		cfg  NATSConfig
		want string
	}{
		{"no store", NATSConfig{}, "no store directory"},
		{"port taken", NATSConfig{StoreDir: t.TempDir(), Listen: taken.Addr().String()}, "in use"},
		{"open to the network", NATSConfig{StoreDir: t.TempDir(), Listen: "0.0.0.0:0"}, "not a loopback address"},
		{"no address", NATSConfig{StoreDir: t.TempDir(), Listen: "nonsense"}, "listen address"},
		{"store is a file", NATSConfig{StoreDir: "nats_test.go"}, "store directory"},
	} {
		n, err := StartNATS(tc.cfg)
		if err == nil {
			n.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "start nats: ") {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
	// A start that did not work gives its claim up.
	dir := t.TempDir()
	if _, err := StartNATS(NATSConfig{StoreDir: dir, Listen: taken.Addr().String()}); err == nil {
		t.Fatal("started on a taken port")
	}
	startTestNATS(t, NATSConfig{StoreDir: dir, NoSync: true})
}

func TestAtomicBatchesAreStagedInMemory(t *testing.T) {
	if _, err := os.Stat(memoryFolder); err != nil {
		t.Logf("no %s here: batches are staged on disk", memoryFolder)
		return
	}
	dir := t.TempDir()
	staged := func() string {
		target, err := os.Readlink(filepath.Join(dir, "jetstream", "$G", "streams", "ORDERS", "batches"))
		if err != nil {
			return ""
		}
		return target
	}
	for _, start := range []string{"first start", "restart on the same store"} {
		n, err := StartNATS(NATSConfig{StoreDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		nc, err := n.Connect()
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
			Name: "ORDERS", Subjects: []string{"orders"}, AllowAtomicPublish: true,
		}); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for !strings.HasPrefix(staged(), memoryFolder) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: staging folder leads to %q", start, staged())
			}
			time.Sleep(time.Millisecond)
		}
		for _, header := range []nats.Header{
			{"Nats-Batch-Id": {start}, "Nats-Batch-Sequence": {"1"}},
			{"Nats-Batch-Id": {start}, "Nats-Batch-Sequence": {"2"}, "Nats-Batch-Commit": {"1"}},
		} {
			msg := &nats.Msg{Subject: "orders", Header: header, Data: []byte("x")}
			if header["Nats-Batch-Commit"] == nil {
				err = nc.PublishMsg(msg)
			} else {
				var reply *nats.Msg
				if reply, err = nc.RequestMsg(msg, 5*time.Second); err == nil && !strings.Contains(string(reply.Data), `"count":2`) {
					err = errors.New(string(reply.Data))
				}
			}
			if err != nil {
				t.Fatalf("%s: %v", start, err)
			}
		}
		memory := filepath.Dir(staged())
		nc.Close()
		n.Stop()
		if _, err := os.Stat(memory); !os.IsNotExist(err) {
			t.Errorf("%s: memory is not freed: %v", start, err)
		}
	}
}
