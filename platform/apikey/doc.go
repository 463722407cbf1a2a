// Package apikey makes, keeps and recognises API keys.
//
//	cmk_h7Xq2LmN4p_6fJ…38 letters and digits
//	│   │          └ 32 random letters and digits, and a checksum of 6
//	│   └ the id, which is no secret
//	└ says to people and to scanners for leaked secrets what it is
//
// A key is shown once, when it is made. What is stored is its SHA-256: a key has 190
// random bits, which nobody guesses however fast the hash, so a slow one such as
// bcrypt would only cost every request, and be a way to keep the gateway busy with
// wrong keys. It would also rule out finding a key by its hash.
//
// A client of a tenant has at most two keys that are in force, so that one can be
// replaced without a gap: [Store.Rotate] makes the second and has the first expire.
//
// Processes that check keys keep those that are in use in memory, see [Keyring]. What
// is changed in the store counts everywhere within [FreshFor].
package apikey
