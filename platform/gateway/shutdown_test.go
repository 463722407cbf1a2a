package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/gateway"
)

// replica is a gateway with a server of its own, as a load balancer sees it.
type replica struct {
	*bundle
	server *http.Server
	url    string
	ready  atomic.Bool
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	r := &replica{bundle: setup(t)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.server, r.url = gateway.NewServer("", r.gateway, nil), "http://"+listener.Addr().String()
	r.ready.Store(true)
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(listener) }()
	t.Cleanup(func() {
		_ = r.server.Close()
		<-done
	})
	return r
}

// A load balancer that heeds readiness sends requests to two replicas, and one of them
// ends. No request may fail: none is refused, none is cut off.
func TestAReplicaEndsUnderLoadWithoutAFailedRequest(t *testing.T) {
	t.Parallel()
	replicas := []*replica{newReplica(t), newReplica(t)}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	ctx, stop := context.WithCancel(t.Context())
	var (
		all      sync.WaitGroup
		answered [2]atomic.Int64
		failed   atomic.Int64
	)
	for worker := range 16 {
		all.Go(func() {
			for n := worker; ctx.Err() == nil; n++ {
				at := n % 2
				if !replicas[at].ready.Load() {
					at = 1 - at
				}
				if err := placeAt(client, replicas[at].url, n%50 == 0); err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				answered[at].Add(1)
			}
		})
	}
	enough := func(at int, more int64) {
		t.Helper()
		want := answered[at].Load() + more
		for limit := time.Now().Add(20 * time.Second); answered[at].Load() < want && failed.Load() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("replica %d answers no more", at)
			}
		}
	}
	enough(0, 200)
	ended := make(chan error, 1)
	go func() { ended <- replicas[0].gateway.Shutdown(t.Context(), replicas[0].server, 300*time.Millisecond) }()
	time.Sleep(50 * time.Millisecond) // the time in which the load balancer has not noticed yet
	replicas[0].ready.Store(false)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	enough(1, 200)
	stop()
	all.Wait()
	if _, err := net.Dial("tcp", replicas[0].url[len("http://"):]); err == nil {
		t.Error("the replica that has ended still listens")
	}
}

// placeAt places an order over a connection that is kept, waiting for its outcome or not.
func placeAt(client *http.Client, url string, wait bool) error {
	// Without GetBody the transport cannot hide a connection that broke by asking again.
	request, err := http.NewRequest(http.MethodPost, url+"/v1/orders", io.NopCloser(bytes.NewReader([]byte(order))))
	if err != nil {
		return err
	}
	request.ContentLength = int64(len(order))
	request.Header.Set("Content-Type", "application/json")
	if wait {
		request.Header.Set("Prefer", "wait=1")
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusAccepted {
		return fmt.Errorf("answered %s", response.Status)
	}
	return nil
}

func TestADrainingGatewayRetiresConnections(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if w := b.order(); w.Header().Get("Connection") != "" {
		t.Errorf("Connection: %s before the end", w.Header().Get("Connection"))
	}
	b.gateway.Drain()
	wantHeader(t, b.order(), "Connection", "close")
}
