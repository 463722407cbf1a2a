//go:build unix && !linux

package embedded

import (
	"os/exec"
	"strconv"
	"strings"
)

// findLeftovers returns the live server processes of the cluster, the
// postmaster first, by what ps says they run: the postmaster has the cluster in
// its arguments, its children the folder's mark in their titles.
func (d dataDir) findLeftovers(pid int) []leftover {
	output, err := exec.Command("ps", "-axww", "-o", "pid=,command=").Output()
	if err != nil {
		return nil
	}
	var found []leftover
	for line := range strings.Lines(string(output)) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		command = strings.TrimSpace(command)
		switch {
		case id == pid && strings.Contains(command, "postgres -D "+d.cluster()+" "):
			found = append([]leftover{{pid: id, postmaster: true}}, found...)
		case d.titled(command):
			found = append(found, leftover{pid: id})
		}
	}
	return found
}
