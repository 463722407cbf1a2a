// Package embedded runs the two servers Countermand needs without asking the
// user to install or configure anything: a private PostgreSQL server as a
// child process and a NATS server with JetStream inside this process.
//
// Both keep their data in a folder of their own and give the guarantees of the
// real thing by default: PostgreSQL runs with fsync and full page writes on,
// JetStream syncs every message before it is acknowledged. The NoSync fields
// give that up and exist for tests. A data folder has one live owner at a time,
// guarded by a file lock that the operating system drops when the owner dies,
// so a second process is refused with [ErrInUse] and a crashed one never has to
// be cleaned up after by hand.
//
// The PostgreSQL binaries are looked for in the folder that
// COUNTERMAND_POSTGRES_BIN names, on PATH, where Linux distributions and
// Homebrew put them, and among earlier downloads; only then are they downloaded
// or installed. On Linux the server does not outlive the process that started
// it. Started by root, it runs as an unprivileged user, because PostgreSQL
// refuses to run as root. PostgreSQL is supported on Unix systems, NATS on
// Windows as well.
package embedded
