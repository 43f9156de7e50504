//! Go templates, as far as scripts use them with `--format`.
//!
//! ```text
//! "{{.Names}}\t{{json .}}" ── lexer ──▶ tokens ── parser ──▶ nodes ── eval(value) ──▶ text
//! ```
//!
//! Supported: fields and chains, variables, pipelines, parentheses, `if`, `else if`, `else`, `with`,
//! `range` (also with key and value), comments, trimming by `{{-` and `-}}`, Go's built-in functions
//! except `call` and the escapers, and Docker's `json`, `join`, `split`, `lower`, `upper`, `title`,
//! `pad` and `truncate`. Not supported: `define`, `template`, `block`.

mod eval;
mod functions;
mod lexer;
mod parser;
mod printf;
mod value;

pub(crate) use value::Value;

use parser::Node;

/// A parsed template, ready to be filled in any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Parses a template. `\t` and `\n`, spelled with a backslash, become tab and line feed, as
    /// Docker's client has it.
    ///
    /// # Errors
    /// [`TemplateError`] with the offset of what is wrong.
    pub(crate) fn parse(source: &str) -> Result<Self, TemplateError> {
        let source = source.replace("\\t", "\t").replace("\\n", "\n");
        let tokens = lexer::lex(&source)?;
        Ok(Self { nodes: parser::parse(tokens)? })
    }

    /// Understands the `--format` of a command that shows one object: nothing asks for the usual
    /// form, `json` for one line of JSON, anything else is a template.
    ///
    /// # Errors
    /// [`TemplateError`] with the offset of what is wrong.
    pub(crate) fn parse_format(format: Option<&str>) -> Result<Option<Self>, TemplateError> {
        match format {
            None | Some("") => Ok(None),
            Some("json") => Self::parse("{{json .}}").map(Some),
            Some(source) => Self::parse(source).map(Some),
        }
    }

    /// Fills the template with a value.
    ///
    /// # Errors
    /// [`TemplateError`] for a field that the value does not have, or a function that does not
    /// take what it was given.
    pub(crate) fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, value)
    }

    /// Whether the template mentions a field of this name anywhere, or may print all fields.
    pub(crate) fn may_read(&self, field: &str) -> bool {
        self.nodes.iter().any(|node| node.may_read(field))
    }
}

/// Why a template cannot be parsed or filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// `{{` without `}}`.
    #[error("template: the action that begins at offset {offset} has no \"}}}}\"")]
    Unclosed { offset: usize },
    /// A string literal without its closing quote.
    #[error("template: the string that begins at offset {offset} is not closed")]
    UnclosedString { offset: usize },
    /// A character that begins nothing.
    #[error("template: unexpected {found:?} at offset {offset}")]
    UnexpectedCharacter { offset: usize, found: char },
    /// A token where another was needed.
    #[error("template: expected {expected}, found {found}")]
    Unexpected { expected: &'static str, found: String },
    /// `if`, `range` or `with` without `end`.
    #[error("template: {{{{{block}}}}} without {{{{end}}}}")]
    NoEnd { block: &'static str },
    /// An action that belongs to another implementation.
    #[error("template: {{{{{action}}}}} is not supported")]
    Unsupported { action: String },
    /// A function that does not exist.
    #[error("template: there is no function {name:?}; there are {known}")]
    NoFunction { name: String, known: String },
    /// A variable that was not declared.
    #[error("template: undefined variable {name:?}")]
    NoVariable { name: String },
    /// A field that the object does not have.
    #[error("template: there is no field {field:?}; there are {known}")]
    NoField { field: String, known: String },
    /// A field of something that has no fields.
    #[error("template: cannot take field {field:?} of {of}")]
    NotAnObject { field: String, of: &'static str },
    /// Too few or too many arguments.
    #[error("template: {function} takes {takes}, got {got}")]
    ArgumentCount { function: String, takes: &'static str, got: usize },
    /// An argument of a wrong type.
    #[error("template: {function} cannot take {got}")]
    ArgumentType { function: String, got: &'static str },
    /// An index outside of a list.
    #[error("template: index {index} is outside of a list of {length}")]
    OutOfRange { index: i64, length: usize },
    /// A `range` over something that has no elements.
    #[error("template: range cannot walk {got}")]
    NotIterable { got: &'static str },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        Value::record([
            ("ID", Value::text("0123456789ab")),
            ("Name", Value::text("/web")),
            (
                "State",
                Value::record([
                    ("Status", Value::text("running")),
                    ("Running", Value::Bool(true)),
                    ("Pid", Value::Int(42)),
                ]),
            ),
            ("Args", Value::List(vec![Value::text("-c"), Value::text("echo hi")])),
            (
                "Labels",
                Value::map([
                    ("a".to_owned(), Value::text("1")),
                    ("b".to_owned(), Value::text("2")),
                ]),
            ),
            ("Empty", Value::text("")),
            ("Nothing", Value::Null),
            ("Label", Value::lookup([("com.x".to_owned(), "yes".to_owned())])),
        ])
    }

    #[test]
    fn templates_render_as_go_renders_them() {
        let table = [
            ("plain", "plain"),
            ("{{.ID}}", "0123456789ab"),
            ("{{ .State.Status }}:{{.State.Pid}}", "running:42"),
            ("{{json .State}}", r#"{"Status":"running","Running":true,"Pid":42}"#),
            ("{{json .Args}}", r#"["-c","echo hi"]"#),
            ("{{.Args}}", "[-c echo hi]"),
            ("{{.Labels}}", "map[a:1 b:2]"),
            ("{{.State}}", "{running true 42}"),
            ("{{join .Args \"|\"}}", "-c|echo hi"),
            ("{{.Args | len}}", "2"),
            ("{{index .Args 1}}", "echo hi"),
            ("{{index .Labels \"b\"}}", "2"),
            ("{{index .Labels \"zzz\"}}", ""),
            ("{{.Labels.a}}", "1"),
            ("{{.Label \"com.x\"}}", "yes"),
            ("{{.Label \"com.y\"}}", ""),
            ("{{upper .Name}} {{lower \"ABC\"}} {{title \"abc\"}}", "/WEB abc Abc"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Empty}}a{{else if .State.Pid}}b{{else}}c{{end}}", "b"),
            ("{{with .Empty}}x{{else}}none{{end}}", "none"),
            ("{{with .State}}{{.Pid}}{{end}}", "42"),
            ("{{range .Args}}<{{.}}>{{end}}", "<-c><echo hi>"),
            ("{{range $i, $a := .Args}}{{$i}}={{$a}};{{end}}", "0=-c;1=echo hi;"),
            ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "a=1 b=2 "),
            ("{{range .Nothing}}x{{else}}empty{{end}}", "empty"),
            ("{{range .Args}}{{$.ID}} {{end}}", "0123456789ab 0123456789ab "),
            ("{{$x := .State.Pid}}{{$x}}", "42"),
            ("{{printf \"%s is %d\" .Name .State.Pid}}", "/web is 42"),
            ("{{printf \"%-6s|%4d|%q|%v|%%\" \"ab\" 7 \"x\" true}}", "ab    |   7|\"x\"|true|%"),
            (
                "{{eq .State.Status \"running\"}} {{ne 1 2}} {{lt 1 2}} {{ge 1 2}}",
                "true true true false",
            ),
            ("{{eq .State.Status \"a\" \"running\"}}", "true"),
            ("{{and .Empty .ID}}|{{or .Empty .ID}}|{{not .Empty}}", "|0123456789ab|true"),
            ("{{(index .Args 0)}}", "-c"),
            ("{{slice .ID 0 4}}", "0123"),
            ("{{truncate .ID 3}}|{{pad \"x\" 1 2}}|", "012| x  |"),
            ("{{split \"a,b\" \",\"}}", "[a b]"),
            ("a {{- /* gone */ -}} b", "ab"),
            ("a {{- .State.Pid -}} b", "a42b"),
            ("{{.ID}}\\t{{.Name}}\\n", "0123456789ab\t/web\n"),
            ("{{`raw \"q\"`}}{{'a'}}", "raw \"q\"97"),
            ("{{.Nothing}}", "<no value>"),
            ("{{json .Nothing}}", "null"),
            ("{{println .ID}}", "0123456789ab\n"),
            ("{{range .Args}}{{if eq . \"-c\"}}{{continue}}{{end}}{{.}}{{end}}", "echo hi"),
            ("{{range .Args}}{{.}}{{break}}{{end}}", "-c"),
            ("{{.State.Pid | printf \"%05d\"}}", "00042"),
        ];
        for (source, expected) in table {
            let rendered = Template::parse(source).and_then(|template| template.render(&sample()));
            assert_eq!(rendered.as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let table = [
            ("{{.ID", "offset 0 has no \"}}\""),
            ("{{\"abc}}", "is not closed"),
            ("{{.Missing}}", "no field \"Missing\"; there are Args, Empty, ID"),
            ("{{.ID.X}}", "cannot take field \"X\" of text"),
            ("{{nosuch .ID}}", "no function \"nosuch\""),
            ("{{if .ID}}x", "{{if}} without {{end}}"),
            ("{{$x}}", "undefined variable \"$x\""),
            ("{{index .Args 9}}", "index 9 is outside of a list of 2"),
            ("{{end}}", "found \"end\""),
            ("{{template \"x\"}}", "is not supported"),
            ("{{range .ID}}{{end}}", "range cannot walk text"),
            ("{{.ID & 1}}", "unexpected '&'"),
            ("{{join .ID \",\"}}", "join cannot take text"),
            ("{{}}", "expected a value"),
        ];
        for (source, expected) in table {
            let outcome = Template::parse(source).and_then(|template| template.render(&sample()));
            let message = outcome.expect_err(source).to_string();
            assert!(message.contains(expected), "{source}: {message}");
        }
    }

    #[test]
    fn a_template_tells_which_fields_it_may_read() {
        let table = [
            ("{{.ID}}", "ID", true),
            ("{{.ID}}", "CreatedAt", false),
            ("{{json .}}", "CreatedAt", true),
            ("{{if .A}}{{upper .CreatedAt}}{{end}}", "CreatedAt", true),
            ("{{range $x := .L}}{{$x.CreatedAt}}{{end}}", "CreatedAt", true),
        ];
        for (source, field, expected) in table {
            let template = Template::parse(source).expect(source);
            assert_eq!(template.may_read(field), expected, "{source}");
        }
    }
}
