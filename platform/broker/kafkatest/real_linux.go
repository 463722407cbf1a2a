package kafkatest

import (
	"os/exec"
	"syscall"
)

// dieWithParent has a server end when these tests end in a way in which they
// cannot end it.
func dieWithParent(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
