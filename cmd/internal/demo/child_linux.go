package demo

import "syscall"

// childAttributes makes a role end with the demo, however the demo ends.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
