package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"
)

// Pattern is the regular expression of a key, for scanners.
const Pattern = `cmk_[0-9A-Za-z]{10}_[0-9A-Za-z]{38}`

const (
	prefix        = "cmk_"
	idLength      = 10
	secretLength  = 32 // letters and digits: 190 bits
	checkLength   = 6  // holds 32 bits
	textLength    = len(prefix) + idLength + 1 + secretLength + checkLength
	secretBegins  = len(prefix) + idLength + 1
	digits        = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	unbiasedBelow = 256 - 256%len(digits)
)

// Digest is what is stored of a key.
type Digest [sha256.Size]byte

// mintText returns a key that nobody had before, and its id.
func mintText() (text, id string) {
	id = random(idLength)
	body := prefix + id + "_" + random(secretLength)
	return body + checksum(body), id
}

// Looks reports whether text was made to be a key, so that it is asked for as one.
func Looks(text string) bool { return strings.HasPrefix(text, prefix) }

// parse returns the digest of a key, and false for a text that no store has made: the
// checksum tells without asking it.
func parse(text string) (Digest, bool) {
	if len(text) != textLength || !strings.HasPrefix(text, prefix) || text[secretBegins-1] != '_' {
		return Digest{}, false
	}
	body := text[:textLength-checkLength]
	if checksum(body) != text[len(body):] {
		return Digest{}, false
	}
	return sha256.Sum256([]byte(text)), true
}

// random returns that many letters and digits, all equally likely.
func random(length int) string {
	text := make([]byte, 0, length)
	for len(text) < length {
		var raw [2 * secretLength]byte
		_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
		for _, b := range raw {
			if int(b) < unbiasedBelow && len(text) < length {
				text = append(text, digits[int(b)%len(digits)])
			}
		}
	}
	return string(text)
}

// checksum returns the CRC-32 of a text in letters and digits.
func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	var check [checkLength]byte
	for i := range check {
		check[checkLength-1-i] = digits[sum%uint32(len(digits))]
		sum /= uint32(len(digits))
	}
	return string(check[:])
}
