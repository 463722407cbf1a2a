// Package upstream sends calls to the deployments of AI models that serve them: which
// one goes first, when another is tried, when to give up, and with which key.
//
// A [Model] is what clients ask for. It leads to deployments, by weight, and to others
// when those fail. A call may move from one deployment to the next only until the
// client has got the first byte. Every attempt is told to a [Reservation], which keeps
// the books: before its first byte leaves and when it ends, however it ends.
package upstream
