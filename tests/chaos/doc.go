// Package chaos kills the product with SIGKILL while orders are on their way,
// starts it again, and audits what became of every order: none may be lost, none
// may have its effects twice, stock and money must add up.
package chaos
