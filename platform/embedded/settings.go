//go:build unix

package embedded

import (
	"maps"
	"slices"
	"strconv"
)

// serverArgs gives the server's settings as command line arguments. They are
// not written to postgresql.conf, so that an upgrade of this package reaches
// existing clusters and a user's own edits of that file stay as they are. Of
// two values for one name the server takes the last.
func serverArgs(cfg PostgresConfig, dir dataDir, at endpoint) []string {
	settings := [][2]string{
		{"max_connections", strconv.Itoa(cfg.MaxConnections)},
		{"shared_buffers", "256MB"},
		{"max_wal_size", "4GB"},
		{"wal_compression", "on"}, // of full pages, with what every build has
		{"autovacuum_naptime", "15s"},
		{"timezone", "UTC"},
		{"jit", "off"},
		{"random_page_cost", "1.1"}, // the disk is an SSD nowadays; 4 makes the planner scan
		{"password_encryption", "scram-sha-256"},
		{"fsync", "on"},
		{"synchronous_commit", "on"},
		{"full_page_writes", "on"},
		// The log goes through a pipe to this process, which bounds its size.
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"log_timezone", "UTC"},
		{"log_line_prefix", "%m [%p] %q%u@%d "},
		{"log_checkpoints", "off"},
		{"log_autovacuum_min_duration", "-1"},
	}
	if cfg.NoSync {
		settings = append(settings,
			[2]string{"shared_buffers", "128MB"},
			[2]string{"fsync", "off"},
			[2]string{"synchronous_commit", "off"},
			[2]string{"full_page_writes", "off"})
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Settings)) {
		settings = append(settings, [2]string{name, cfg.Settings[name]})
	}
	settings = append(settings, at.settings()...)
	// The server puts the name into the titles of its processes.
	settings = append(settings, [2]string{"cluster_name", dir.mark()})

	args := make([]string, 0, 2*len(settings))
	for _, s := range settings {
		args = append(args, "-c", s[0]+"="+s[1])
	}
	return args
}
