//go:build !unix

package embedded

// helperParts are the parts by name. What a part prints is read by the test.
var helperParts = map[string]func(args []string) error{
	"own-nats": ownNATS,
	"hold":     hold,
}
