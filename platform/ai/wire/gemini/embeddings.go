package gemini

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/url"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// Embeddings makes the exchange for embeddings of texts.
func Embeddings(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	input := o.Get("input")
	texts := []gjson.Result{input}
	if input.IsArray() {
		texts = input.Array()
	}
	requests := make([]any, 0, len(texts))
	for _, text := range texts {
		if text.Type != gjson.String {
			return nil, wire.Invalid("input", "This model takes texts, not tokens.")
		}
		request := map[string]any{"model": "models/" + options.Model, "content": content{Parts: []any{map[string]string{"text": text.Str}}}}
		if dimensions := o.Get("dimensions").Int(); dimensions > 0 {
			request["outputDimensionality"] = dimensions
		}
		requests = append(requests, request)
	}
	data, err := json.Marshal(map[string]any{"requests": requests})
	if err != nil {
		return nil, err
	}
	packed := o.Get("encoding_format").Str == "base64"
	return &wire.Exchange{
		Path: "/models/" + url.PathEscape(options.Model) + ":batchEmbedContents", Body: data, Failure: ReadError,
		Usage:    Usage,
		Response: func(answer []byte) ([]byte, error) { return toEmbeddings(answer, options.Model, packed) },
	}, nil
}

func toEmbeddings(answer []byte, model string, packed bool) ([]byte, error) {
	list := gjson.GetBytes(answer, "embeddings")
	if !gjson.ValidBytes(answer) || !list.IsArray() {
		return nil, wire.BadAnswer("it holds no embeddings")
	}
	data := []any{}
	body.Visit(list, func(_, one gjson.Result) bool {
		var embedding any = raw(one.Get("values").Raw)
		if packed {
			var floats []byte
			body.Visit(one.Get("values"), func(_, n gjson.Result) bool {
				floats = binary.LittleEndian.AppendUint32(floats, math.Float32bits(float32(n.Num)))
				return true
			})
			embedding = base64.StdEncoding.EncodeToString(floats)
		}
		data = append(data, map[string]any{"object": "embedding", "index": len(data), "embedding": embedding})
		return true
	})
	usage, _ := Usage(answer)
	return json.Marshal(map[string]any{
		"object": "list", "data": data, "model": model,
		"usage": map[string]int64{"prompt_tokens": usage.InputTotal(), "total_tokens": usage.InputTotal()},
	})
}
