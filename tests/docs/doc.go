// Package docs runs the commands of README.md and of the tutorials the way a
// reader would, so that what is written there works.
//
// # What runs
//
// A fenced block marked sh is run; one marked console, text, json or anything
// else only shows something. Blocks marked bash or shell are refused: say sh or
// console. All blocks of a page run in one bash, so a variable and a change of
// folder last to the end of the page. Its folder is a copy of the repository, of
// which the page may change anything, and its PATH has the countermand binary of
// the working tree. Each command must succeed.
//
// A dev process serves while the pages run. What a reader reaches at
// 127.0.0.1:8080 or localhost:8080, and at 8081 for the admin listener, is read
// as the addresses where it really is; output is read the other way round. The
// commands `countermand saga …` find it as well.
//
// # Directives
//
// HTML comments above a block, which readers do not see, change this. Several may
// stand above one block.
//
//	<!-- test: skip, the reason -->     it is not run; a reason is required
//	<!-- test: expect "201 Created" --> the output must have this text
//	<!-- test: exit 1 -->               its last command must end with this code
//	<!-- test: within 10s -->           it is run again until its last command succeeds and
//	                                    shows what is expected
//	<!-- test: background "ready" -->   it runs on while later blocks do; they wait until
//	                                    its output has this text. A background block
//	                                    before it is stopped first. When it prints a
//	                                    ready line of countermand dev, the default
//	                                    addresses mean this process from then on.
//
// Above a block that is not sh:
//
//	<!-- test: output -->               its lines must come in the output of the block that
//	                                    ran last, in this order. White space does not count,
//	                                    any id and time stand for any other, … for anything.
//	<!-- test: file sagas/x/x.go -->    it is the content of this file from here on
//	<!-- test: patch -->                it is a diff, which is applied with git apply
package docs
