//go:build unix && !linux

package embedded

import "syscall"

// prepareSystem does nothing: parent death signals and capabilities are
// Linux's. A server that outlives its owner is stopped by the next start.
func (a account) prepareSystem(*syscall.SysProcAttr, syscall.Signal) {}

func maySearchAny() bool { return false }
