// Package anthropic speaks the messages format of Anthropic, in three ways: it passes
// messages on to an upstream of that format, it makes messages of a chat for such an
// upstream ([Chat]), and it lets a client of messages talk to an upstream of chat
// ([OverChat]).
//
// What one of the two formats has and the other lacks is dropped only when it is a
// wish, such as a seed. What the answer depends on, such as several choices, is refused.
// Fields that are in neither format pass as they are: they are newer than this package.
package anthropic
