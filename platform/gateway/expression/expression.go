// Package expression compiles and runs the expressions of a route table. They are
// in CEL, the Common Expression Language: typed, without loops and side effects,
// and never without an end. What an expression names and what type it gives is
// checked when it is compiled; what it may cost is bounded when it runs.
package expression

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
)

// Limits of every expression.
const (
	// TextBytesMax bounds the text of one expression.
	TextBytesMax = 4096
	// CostMax bounds what one run may cost, in units of CEL: about one for each
	// operation, and one for each ten bytes of text that are looked at. A run that
	// comes to it fails after some 10 ms.
	CostMax = 200_000
	// nestingMax bounds the depth of an expression.
	nestingMax = 64
)

// Scope is what an expression may name.
type Scope struct{ env *cel.Env }

// Variable is a name of a scope with its type.
type Variable = cel.EnvOption

// Text declares a text.
func Text(name string) Variable { return cel.Variable(name, cel.StringType) }

// Texts declares a map of texts by name.
func Texts(name string) Variable {
	return cel.Variable(name, cel.MapType(cel.StringType, cel.StringType))
}

// TextList declares a list of texts.
func TextList(name string) Variable { return cel.Variable(name, cel.ListType(cel.StringType)) }

// Any declares a value of JSON, whose type only a run tells.
func Any(name string) Variable { return cel.Variable(name, cel.DynType) }

// NewScope returns a scope of those variables and the functions of CEL's standard
// library and of its extension for strings. It panics when two variables clash,
// since scopes are package variables.
func NewScope(variables ...Variable) *Scope {
	env, err := cel.NewEnv(append([]cel.EnvOption{
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(TextBytesMax),
		cel.ParserRecursionLimit(nestingMax),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
		ext.Strings(),
	}, variables...)...)
	if err != nil {
		panic(fmt.Sprintf("expression: %v", err))
	}
	return &Scope{env}
}

// Program is a compiled expression. It is safe for concurrent use.
type Program struct {
	text    string
	program cel.Program
}

// String returns the text of the expression.
func (p *Program) String() string { return p.text }

// Condition compiles an expression that must give true or false.
func (s *Scope) Condition(text string) (*Program, error) { return s.compile(text, cel.BoolType) }

// Words compiles an expression that must give a text.
func (s *Scope) Words(text string) (*Program, error) { return s.compile(text, cel.StringType) }

// Document compiles an expression that may give any value of JSON.
func (s *Scope) Document(text string) (*Program, error) { return s.compile(text, nil) }

func (s *Scope) compile(text string, want *cel.Type) (*Program, error) {
	ast, issues := s.env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, errors.New(explain(issues))
	}
	if got := ast.OutputType(); want != nil && !got.IsExactType(want) && !got.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("it gives %s, want %s", cel.FormatCELType(got), cel.FormatCELType(want))
	}
	program, err := s.env.Program(ast, cel.CostLimit(CostMax), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return &Program{text: text, program: program}, nil
}

// explain puts what is wrong with an expression into one line.
func explain(issues *cel.Issues) string {
	var all []string
	for _, e := range issues.Errors() {
		all = append(all, fmt.Sprintf("column %d: %s", e.Location.Column()+1, e.Message))
	}
	return strings.Join(all, "; ")
}

// Input gives the values of a run: ok is false for a name that has none. A value
// that no run asks for is never made.
type Input func(name string) (value any, ok bool)

// activation is an Input as CEL wants it.
type activation struct{ input Input }

func (a activation) ResolveName(name string) (any, bool) { return a.input(name) }
func (activation) Parent() cel.Activation                { return nil }

// Holds runs a condition. An error means that it could not be told: a field that
// is not there, a type that does not fit, or a cost above CostMax.
func (p *Program) Holds(input Input) (bool, error) {
	value, err := p.run(input)
	if err != nil {
		return false, err
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, fmt.Errorf("it gave %s, want true or false", value.Type().TypeName())
	}
	return holds, nil
}

// Say runs an expression that gives a text.
func (p *Program) Say(input Input) (string, error) {
	value, err := p.run(input)
	if err != nil {
		return "", err
	}
	text, ok := value.Value().(string)
	if !ok {
		return "", fmt.Errorf("it gave %s, want a text", value.Type().TypeName())
	}
	return text, nil
}

// Make runs an expression and returns its value as encoding/json would decode it.
func (p *Program) Make(input Input) (any, error) {
	value, err := p.run(input)
	if err != nil {
		return nil, err
	}
	document, err := value.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fmt.Errorf("it gave what JSON cannot hold: %w", err)
	}
	return document.(*structpb.Value).AsInterface(), nil
}

func (p *Program) run(input Input) (ref.Val, error) {
	value, _, err := p.program.Eval(activation{input})
	switch {
	case err != nil:
		return nil, err
	case types.IsUnknownOrError(value):
		return nil, fmt.Errorf("%v", value)
	}
	return value, nil
}
