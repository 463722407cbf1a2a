package operate

import (
	"net/http"

	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/answer"
)

func (a api) registerPrompts(mux *http.ServeMux) {
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /admin/v1/ai/prompts":                  a.prompts,
		"GET /admin/v1/ai/prompts/{reference}":      a.prompt,
		"POST /admin/v1/ai/prompts":                 a.publish,
		"PUT /admin/v1/ai/prompts/{slug}/{channel}": a.move,
	} {
		mux.Handle(pattern, a.Protect(answering(a.Logger, handle)))
	}
}

// PromptList is the body of a list of prompts.
type PromptList struct {
	Prompts []prompt.Listed `json:"prompts"`
}

func (a api) prompts(w http.ResponseWriter, r *http.Request) error {
	found, err := a.Prompts.List(r.Context(), r.URL.Query().Get("tenant"))
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, PromptList{append([]prompt.Listed{}, found...)})
}

func (a api) prompt(w http.ResponseWriter, r *http.Request) error {
	found, err := a.Prompts.Get(r.Context(), r.URL.Query().Get("tenant"), r.PathValue("reference"))
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, found)
}

func (a api) publish(w http.ResponseWriter, r *http.Request) error {
	var p prompt.Prompt
	if err := answer.Read(w, r, &p, bodyBytesMax); err != nil {
		return err
	}
	version, err := a.Prompts.Publish(r.Context(), r.URL.Query().Get("tenant"), p)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusCreated, version)
}

// Move is the body that has a channel stand for a version.
type Move struct {
	Version int `json:"version"`
}

func (a api) move(w http.ResponseWriter, r *http.Request) error {
	var body Move
	if err := answer.Read(w, r, &body, bodyBytesMax); err != nil {
		return err
	}
	err := a.Prompts.Move(r.Context(), r.URL.Query().Get("tenant"), r.PathValue("slug"), r.PathValue("channel"), body.Version)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
