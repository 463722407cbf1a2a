package simulated

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/anthropic"
	"github.com/countermand/countermand/platform/ai/wire/openai"
)

// Models are the names of the models that the provider tells of. It takes others too,
// see the package.
func Models() []string {
	return []string{"sim-echo", "sim-words", "sim-tools", "sim-embed"}
}

const bodyBytesMax = 32 << 20

// Provider answers requests. It is an [http.Handler] and safe for concurrent use.
type Provider struct {
	mux   *http.ServeMux
	calls atomic.Int64
}

// New returns a provider.
func New() *Provider {
	p := &Provider{mux: http.NewServeMux()}
	p.mux.HandleFunc("POST /v1/chat/completions", p.serve(readChat, writeChat, openai.AppendError))
	p.mux.HandleFunc("POST /v1/messages", p.serve(readMessages, writeMessages, anthropic.AppendError))
	p.mux.HandleFunc("POST /v1/responses", p.serve(readResponses, writeResponses, openai.AppendError))
	p.mux.HandleFunc("POST /v1/embeddings", p.serve(readEmbeddings, writeEmbeddings, openai.AppendError))
	return p
}

// Calls returns how many requests came.
func (p *Provider) Calls() int64 { return p.calls.Load() }

// ServeHTTP answers one request.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.calls.Add(1)
	p.mux.ServeHTTP(w, r)
}

// answer is one answer under way.
type answer struct {
	http.ResponseWriter
	ctx   context.Context //nolint:containedctx // it lives as long as the request that it is of
	plan  plan
	root  gjson.Result
	asked *request
	parts int
}

func (p *Provider) serve(read func(gjson.Result) *request, write func(*answer), appendError func([]byte, *wire.Error) []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
		if err != nil || !gjson.ValidBytes(data) {
			fail(w, appendError, &wire.Error{Status: http.StatusBadRequest, Code: "invalid_json", Message: "The body is not JSON."})
			return
		}
		root := gjson.ParseBytes(data)
		asked := read(root)
		a := &answer{ResponseWriter: w, ctx: r.Context(), plan: asked.plan(), root: root, asked: asked}
		switch {
		case len(asked.tools) > toolsMax || asked.inputs > inputsMax:
			fail(w, appendError, &wire.Error{
				Status: http.StatusBadRequest, Code: "too_many", Message: fmt.Sprintf("At most %d tools and %d inputs are taken.", toolsMax, inputsMax),
			})
			return
		case a.plan.hang:
			<-r.Context().Done()
			return
		case !a.wait(a.plan.latency):
			return
		case a.plan.fail > 0:
			if a.plan.fail == http.StatusTooManyRequests || a.plan.fail == http.StatusServiceUnavailable {
				w.Header().Set("Retry-After", "1")
			}
			fail(w, appendError, &wire.Error{Status: a.plan.fail, Code: "simulated", Message: "A simulated failure."})
			return
		}
		write(a)
	}
}

func fail(w http.ResponseWriter, appendError func([]byte, *wire.Error) []byte, e *wire.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_, _ = w.Write(appendError(nil, e)) // the client is gone when this fails
}

// wait reports false when the client has gone before d is over.
func (a *answer) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.ctx.Done():
		return false
	}
}

// json sends a whole answer, or half of one that is to be cut.
func (a *answer) json(document any) {
	data, err := json.Marshal(document)
	if err != nil { // cannot happen: it is made here
		panic(err)
	}
	a.Header().Set("Content-Type", "application/json")
	if a.plan.cut > 0 {
		a.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = a.Write(data[:len(data)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = a.Write(data)
}

// part sends one part of a stream at once, with the pause before it that was asked for.
func (a *answer) part(frames []byte) {
	if a.parts == 0 {
		a.Header().Set("Content-Type", "text/event-stream")
	}
	if a.parts > 0 && !a.wait(a.plan.pause) {
		panic(http.ErrAbortHandler)
	}
	if a.parts++; a.plan.cut > 0 && a.parts > a.plan.cut {
		panic(http.ErrAbortHandler)
	}
	if _, err := a.Write(frames); err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush()
}

// id names an answer, always the same for the same request.
func (a *answer) id(prefix string) string { return fmt.Sprintf("%s%08x", prefix, digest(a.root.Raw)) }

const (
	dimensionsDefault, dimensionsMax = 16, 4096
	// inputsMax is how many texts may be embedded at once, and toolsMax how many tools may
	// be offered; OpenAI has the same bounds.
	inputsMax, toolsMax = 2048, 128
)

func readEmbeddings(root gjson.Result) *request {
	r := readCommon(root)
	input := root.Get("input")
	r.inputBytes = len(input.Raw)
	if input.Type == gjson.String {
		r.text = input.Str
	}
	if input.IsArray() && input.Get("0").Type != gjson.Number {
		r.inputs = int(input.Get("#").Int())
	}
	return r
}

func writeEmbeddings(a *answer) {
	input := a.root.Get("input")
	inputs := []gjson.Result{input}
	if input.IsArray() && input.Get("0").Type != gjson.Number {
		inputs = input.Array()
	}
	dimensions := int(a.root.Get("dimensions").Int())
	if dimensions <= 0 || dimensions > dimensionsMax {
		dimensions = dimensionsDefault
	}
	list := []any{}
	for i, one := range inputs {
		vector := embed(one.Raw, dimensions)
		var embedding any = vector
		if a.root.Get("encoding_format").Str == "base64" {
			var packed []byte
			for _, f := range vector {
				packed = binary.LittleEndian.AppendUint32(packed, math.Float32bits(f))
			}
			embedding = base64.StdEncoding.EncodeToString(packed)
		}
		list = append(list, map[string]any{"object": "embedding", "index": i, "embedding": embedding})
	}
	a.json(map[string]any{
		"object": "list", "data": list, "model": a.asked.model,
		"usage": map[string]int64{"prompt_tokens": a.plan.input, "total_tokens": a.plan.input},
	})
}

// embed returns a vector of length one that follows from the text.
func embed(text string, dimensions int) []float32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	seed, length := h.Sum64(), 0.0
	vector := make([]float32, dimensions)
	for i := range vector {
		seed = seed*6364136223846793005 + 1442695040888963407
		vector[i] = float32(int32(seed>>32)) / math.MaxInt32
		length += float64(vector[i]) * float64(vector[i])
	}
	for i := range vector {
		vector[i] = float32(float64(vector[i]) / math.Sqrt(max(length, 1e-9)))
	}
	return vector
}
