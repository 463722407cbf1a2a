package filter

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/antlr/antlr4/runtime/Go/antlr"
	cesql "github.com/cloudevents/sdk-go/sql/v2"
	"github.com/cloudevents/sdk-go/sql/v2/gen"
	"github.com/cloudevents/sdk-go/sql/v2/parser"
	"github.com/cloudevents/sdk-go/sql/v2/runtime"
)

const (
	// sqlTokensMax and sqlNestingMax bound what parsing an expression costs: the
	// parser looks ahead without a limit of its own.
	sqlTokensMax  = 256
	sqlNestingMax = 16
)

// parsing keeps the generated parser, whose tables are shared, to one goroutine.
var parsing sync.Mutex

// compileSQL parses an expression in CloudEvents SQL. The SDK's parser ignores
// characters it does not know, writes to stderr and panics on most faults of syntax,
// so the grammar is first run by itself, and only what it takes is given to the parser.
func compileSQL(source string) (_ cesql.Expression, err error) {
	if strings.TrimSpace(source) == "" {
		return nil, errors.New("the expression is empty")
	}
	if len(source) > SQLBytesMax {
		return nil, fmt.Errorf("the expression has %d bytes, at most %d are allowed", len(source), SQLBytesMax)
	}
	parsing.Lock()
	defer parsing.Unlock()
	defer func() {
		if cause := recover(); cause != nil {
			err = errors.New("the expression cannot be read")
		}
	}()
	if err := checkSyntax(source); err != nil {
		return nil, err
	}
	return parser.Parse(source)
}

// checkSyntax runs lexer and grammar over an expression.
func checkSyntax(source string) error {
	listener := &syntaxListener{}
	lexer := gen.NewCESQLParserLexer(parser.NewCaseChangingStream(antlr.NewInputStream(source), true))
	lexer.RemoveErrorListeners()
	lexer.AddErrorListener(listener)
	stream := antlr.NewCommonTokenStream(lexer, antlr.TokenDefaultChannel)
	stream.Fill()
	if listener.err != nil {
		return listener.err
	}
	if err := checkTokens(stream.GetAllTokens()); err != nil {
		return err
	}
	grammar := gen.NewCESQLParserParser(stream)
	grammar.RemoveErrorListeners()
	grammar.AddErrorListener(listener)
	tree := grammar.Cesql()
	if listener.err != nil {
		return listener.err
	}
	return checkFunctions(tree)
}

// checkTokens bounds what parsing costs.
func checkTokens(tokens []antlr.Token) error {
	if len(tokens) > sqlTokensMax {
		return fmt.Errorf("the expression has %d words and signs, at most %d are allowed", len(tokens), sqlTokensMax)
	}
	open, unary := 0, 0
	for _, token := range tokens {
		switch token.GetTokenType() {
		case gen.CESQLParserLexerLR_BRACKET:
			open++
		case gen.CESQLParserLexerRR_BRACKET:
			open--
		case gen.CESQLParserLexerNOT, gen.CESQLParserLexerMINUS:
			unary++
		}
		if open > sqlNestingMax || unary > sqlNestingMax {
			return fmt.Errorf("column %d: more than %d brackets, NOT or minus signs", token.GetColumn()+1, sqlNestingMax)
		}
	}
	return nil
}

// checkFunctions finds calls of what is no function, of which the SDK would tell only
// when there is an event.
func checkFunctions(tree antlr.Tree) error {
	if call, ok := tree.(*gen.FunctionInvocationExpressionContext); ok {
		name := call.FunctionIdentifier().GetText()
		var arguments int
		if list, ok := call.FunctionParameterList().(*gen.FunctionParameterListContext); ok {
			arguments = len(list.AllExpression())
		}
		if runtime.ResolveFunction(name, arguments) == nil {
			return fmt.Errorf("column %d: there is no function %s of %d arguments", call.GetStart().GetColumn()+1, strings.ToUpper(name), arguments)
		}
	}
	for _, child := range tree.GetChildren() {
		if err := checkFunctions(child); err != nil {
			return err
		}
	}
	return nil
}

// syntaxListener keeps the first fault of syntax.
type syntaxListener struct {
	antlr.DefaultErrorListener

	err error
}

// SyntaxError implements antlr.ErrorListener.
func (l *syntaxListener) SyntaxError(_ antlr.Recognizer, _ any, _, column int, message string, _ antlr.RecognitionException) {
	if l.err == nil {
		message, _, _ = strings.Cut(message, " expecting {") // a dozen names of the grammar
		l.err = fmt.Errorf("column %d: %s", column+1, strings.ReplaceAll(message, "<EOF>", "the end"))
	}
}
