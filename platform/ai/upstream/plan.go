package upstream

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/openai"
)

// Request is a call as a client asks for it.
type Request struct {
	Format wire.Format
	Model  string
	Tenant string
	Body   *body.Object
	// Stream says that the client wants the answer in parts, and UsageAsked that it wants
	// the usage among them.
	Stream     bool
	UsageAsked bool
	// Header goes along to upstreams of the client's own format.
	Header http.Header
}

// Plan is a call that can be made: which deployments it may go to, and what it can use
// at most.
type Plan struct {
	// Model is the name of the model in the configuration, so one of a bounded number.
	Model string
	// Extra is what the request asks for that the model's own price does not cover.
	Extra ai.Extra
	// Targets are what the deployments are called by the price catalogue.
	Targets []ai.Model
	// Most is an upper bound of what one attempt uses.
	Most ai.Usage

	router     *Router
	snapshot   *snapshot
	model      Model
	request    Request
	candidates []*deployment
	input      int64 // estimate of what it reads, for when nobody tells
}

// choicesMax bounds the choices that a client may ask for.
const choicesMax = 128

// Plan looks at a request and tells what calling it takes. Its error is a *wire.Error.
func (r *Router) Plan(request Request) (*Plan, error) {
	s := r.current.Load()
	model, name, known := s.config.find(request.Model)
	if !known || !model.allows(request.Tenant) {
		return nil, &wire.Error{
			Status: http.StatusNotFound, Code: "model_not_found", Param: "model",
			Message: fmt.Sprintf("There is no model %q here, or it is not for you. GET /ai/v1/models tells which there are.", request.Model),
		}
	}
	p := &Plan{Model: name, router: r, snapshot: s, model: model, request: request}
	for _, d := range s.candidates(model) {
		if d.serves(request.Format) {
			p.candidates = append(p.candidates, d)
		}
	}
	if len(p.candidates) == 0 {
		return nil, &wire.Error{
			Status: http.StatusBadRequest, Code: "endpoint_not_supported", Param: "model",
			Message: fmt.Sprintf("The model %q does not speak %s.", request.Model, request.Format),
		}
	}
	choices := max(request.Body.Get("n").Int(), 1)
	if choices > choicesMax {
		return nil, wire.Invalid("n", fmt.Sprintf("At most %d choices can be asked for.", choicesMax))
	}
	if err := checkPriced(request.Body); err != nil {
		return nil, err
	}
	p.Extra = extraOf(request.Body)
	for _, d := range p.candidates {
		if m := d.priced(d.provider.Provider, d.upstreamName(request.Model, name)).With(p.Extra); !slices.Contains(p.Targets, m) {
			p.Targets = append(p.Targets, m)
		}
	}
	data := request.Body.Bytes()
	p.Most = ai.Usage{Input: inputMost(data), Output: choices * p.outputMost()}
	p.input = p.Most.Input / 2
	return p, nil
}

// checkPriced refuses wishes whose price is another than that of the model.
func checkPriced(o *body.Object) error {
	switch tier := o.Get("service_tier").Str; tier {
	case "", "auto", "default", "flex", "standard_only":
	default:
		return &wire.Error{
			Status: http.StatusUnprocessableEntity, Code: "price_unknown", Param: "service_tier",
			Message: fmt.Sprintf("What the service tier %q costs is not known here.", tier),
		}
	}
	if speed := o.Get("speed").Str; speed != "" && speed != "standard" {
		return &wire.Error{
			Status: http.StatusUnprocessableEntity, Code: "price_unknown", Param: "speed",
			Message: fmt.Sprintf("What the speed %q costs is not known here.", speed),
		}
	}
	if o.Get("background").Bool() {
		return wire.Invalid("background", "A response cannot be made in the background of the provider: its cost would not be seen. Send Prefer: respond-async instead.")
	}
	return nil
}

// outputMost bounds the output of one choice.
func (p *Plan) outputMost() int64 {
	if p.request.Format == wire.Embeddings {
		return 0
	}
	if asked := openai.OutputMax(p.request.Body); asked > 0 {
		return asked
	}
	most := int64(0)
	for _, d := range p.candidates {
		if d.OutputMax > 0 {
			most = max(most, d.OutputMax)
		} else {
			most = max(most, OutputDefault)
		}
	}
	return most
}

// What the content of a request is taken for. A token has two bytes of JSON at least,
// but for texts made to be otherwise.
const (
	bytesPerToken      = 2
	imageTokens        = 6000
	bytesPerTokenFiles = 8
)

var (
	dataURL   = []byte(`"data:`)
	base64Key = []byte(`"base64"`)
)

// inputMost bounds the tokens of a request. What is in base64 is an image or a file,
// of which the size in bytes says little.
func inputMost(data []byte) int64 {
	if !bytes.Contains(data, dataURL) && !bytes.Contains(data, base64Key) {
		return int64(len(data)/bytesPerToken) + 1
	}
	total := int64(len(data))
	tokens := int64(0)
	walk(gjson.ParseBytes(data), func(text string, image bool) {
		total -= int64(len(text))
		if image {
			tokens += imageTokens
		} else {
			tokens += int64(len(text)/bytesPerTokenFiles) + 1
		}
	})
	return tokens + max(total, 0)/bytesPerToken + 1
}

// walk finds texts in base64: data URLs, and the data of a source in base64.
func walk(value gjson.Result, found func(text string, image bool)) {
	inline := value.IsObject() && value.Get("type").Str == "base64"
	body.Visit(value, func(key, inner gjson.Result) bool {
		switch {
		case inner.Type != gjson.String:
			walk(inner, found)
		case inline && key.Str == "data":
			found(inner.Str, bytes.HasPrefix([]byte(value.Get("media_type").Str), []byte("image/")))
		case len(inner.Str) > 5 && inner.Str[:5] == "data:":
			found(inner.Str, len(inner.Str) > 11 && inner.Str[5:11] == "image/")
		}
		return true
	})
}

// serves reports whether calls of a format can go to the deployment.
func (d *deployment) serves(format wire.Format) bool {
	if builders[d.provider.Wire][format] == nil || format == wire.Responses && !d.provider.Responses {
		return false
	}
	return len(d.Endpoints) == 0 || slices.Contains(d.Endpoints, string(format))
}
