package embedded

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func (a account) prepareSystem(attr *syscall.SysProcAttr, death syscall.Signal) {
	attr.Pdeathsig = death
	if a.searchAny {
		attr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
	}
}

// maySearchAny says whether we have the capability that searchAny hands on.
func maySearchAny() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Permitted&(1<<unix.CAP_DAC_READ_SEARCH) != 0
}
