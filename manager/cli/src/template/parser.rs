//! Tokens to a tree.

use std::collections::VecDeque;

use super::lexer::Token;
use super::{TemplateError, Value, functions};

/// One piece of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Text, as it stands.
    Text(String),
    /// `{{pipeline}}`: prints its value, unless it declares or assigns a variable.
    Print(Pipeline),
    /// `if` and its `else if`s, then `else`.
    If { branches: Vec<(Pipeline, Vec<Node>)>, otherwise: Vec<Node> },
    /// `with`.
    With { pipeline: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    /// `range`.
    Range { pipeline: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    /// `break`.
    Break,
    /// `continue`.
    Continue,
}

/// Commands, each fed with the value of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    /// Variables that get the value.
    pub(super) variables: Vec<String>,
    /// Whether they exist already (`=`, not `:=`).
    pub(super) assigns: bool,
    /// The commands; at least one.
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A value, or how to get one.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    /// `.A.B`; empty for the dot.
    Field(Vec<String>),
    /// `$x.A`.
    Variable(String, Vec<String>),
    /// A function's name.
    Function(String),
    /// A literal.
    Literal(Value),
    /// `(pipeline).A`.
    Nested(Box<Pipeline>, Vec<String>),
}

impl Node {
    /// See [`super::Template::may_read`].
    pub(super) fn may_read(&self, field: &str) -> bool {
        let any = |nodes: &[Node]| nodes.iter().any(|node| node.may_read(field));
        match self {
            Self::Text(_) | Self::Break | Self::Continue => false,
            Self::Print(pipeline) => pipeline.may_read(field),
            Self::If { branches, otherwise } => {
                any(otherwise)
                    || branches.iter().any(|(test, body)| test.may_read(field) || any(body))
            }
            Self::With { pipeline, body, otherwise }
            | Self::Range { pipeline, body, otherwise } => {
                pipeline.may_read(field) || any(body) || any(otherwise)
            }
        }
    }
}

impl Pipeline {
    fn may_read(&self, field: &str) -> bool {
        self.commands.iter().flatten().any(|operand| match operand {
            Operand::Field(names) | Operand::Variable(_, names) => {
                names.is_empty() || names.iter().any(|name| name == field)
            }
            Operand::Nested(pipeline, _) => pipeline.may_read(field),
            Operand::Function(_) | Operand::Literal(_) => false,
        })
    }
}

/// How a list of nodes ended.
enum Stop {
    Source,
    End,
    Else,
    ElseIf(Pipeline),
}

/// Builds the tree.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { tokens: tokens.into() };
    let (nodes, stop) = parser.nodes()?;
    match stop {
        Stop::Source => Ok(nodes),
        Stop::End => Err(unexpected("text or an action", "\"end\"".to_owned())),
        Stop::Else | Stop::ElseIf(_) => Err(unexpected("text or an action", "\"else\"".to_owned())),
    }
}

fn unexpected(expected: &'static str, found: String) -> TemplateError {
    TemplateError::Unexpected { expected, found }
}

struct Parser {
    tokens: VecDeque<Token>,
}

impl Parser {
    /// Reads nodes up to the end, an `else` or an `end`.
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            match self.tokens.pop_front() {
                None => return Ok((nodes, Stop::Source)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(_) => match self.action()? {
                    Action::Node(node) => nodes.push(node),
                    Action::Stop(stop) => return Ok((nodes, stop)),
                },
            }
        }
    }

    /// Reads an action after its `{{`.
    fn action(&mut self) -> Result<Action, TemplateError> {
        let keyword = match self.tokens.front() {
            Some(Token::Word(word)) => word.clone(),
            _ => String::new(),
        };
        match keyword.as_str() {
            "if" => self.if_block().map(Action::Node),
            "with" => {
                let (pipeline, body, otherwise) = self.block("with")?;
                Ok(Action::Node(Node::With { pipeline, body, otherwise }))
            }
            "range" => {
                let (pipeline, body, otherwise) = self.block("range")?;
                Ok(Action::Node(Node::Range { pipeline, body, otherwise }))
            }
            "end" => self.keyword_alone(Action::Stop(Stop::End)),
            "break" => self.keyword_alone(Action::Node(Node::Break)),
            "continue" => self.keyword_alone(Action::Node(Node::Continue)),
            "else" => {
                self.tokens.pop_front();
                if self.tokens.front() == Some(&Token::Word("if".to_owned())) {
                    self.tokens.pop_front();
                    let pipeline = self.pipeline()?;
                    self.close()?;
                    return Ok(Action::Stop(Stop::ElseIf(pipeline)));
                }
                self.close()?;
                Ok(Action::Stop(Stop::Else))
            }
            "define" | "template" | "block" => Err(TemplateError::Unsupported { action: keyword }),
            _ => {
                let pipeline = self.pipeline()?;
                self.close()?;
                Ok(Action::Node(Node::Print(pipeline)))
            }
        }
    }

    /// Takes a keyword that stands alone in its action.
    fn keyword_alone(&mut self, action: Action) -> Result<Action, TemplateError> {
        self.tokens.pop_front();
        self.close()?;
        Ok(action)
    }

    fn if_block(&mut self) -> Result<Node, TemplateError> {
        self.tokens.pop_front();
        let mut test = self.pipeline()?;
        self.close()?;
        let mut branches = Vec::new();
        loop {
            let (body, stop) = self.nodes()?;
            match stop {
                Stop::Source => return Err(TemplateError::NoEnd { block: "if" }),
                Stop::End => {
                    branches.push((test, body));
                    return Ok(Node::If { branches, otherwise: Vec::new() });
                }
                Stop::ElseIf(next) => branches.push((std::mem::replace(&mut test, next), body)),
                Stop::Else => {
                    branches.push((test, body));
                    let otherwise = self.until_end("if")?;
                    return Ok(Node::If { branches, otherwise });
                }
            }
        }
    }

    /// Reads `with` or `range`, from the keyword to `end`.
    fn block(
        &mut self,
        block: &'static str,
    ) -> Result<(Pipeline, Vec<Node>, Vec<Node>), TemplateError> {
        self.tokens.pop_front();
        let pipeline = self.pipeline()?;
        self.close()?;
        let (body, stop) = self.nodes()?;
        match stop {
            Stop::End => Ok((pipeline, body, Vec::new())),
            Stop::Else => Ok((pipeline, body, self.until_end(block)?)),
            Stop::Source => Err(TemplateError::NoEnd { block }),
            Stop::ElseIf(_) => Err(unexpected("\"else\" or \"end\"", "\"else if\"".to_owned())),
        }
    }

    /// Reads the part after `else`.
    fn until_end(&mut self, block: &'static str) -> Result<Vec<Node>, TemplateError> {
        match self.nodes()? {
            (nodes, Stop::End) => Ok(nodes),
            (_, Stop::Source) => Err(TemplateError::NoEnd { block }),
            (_, Stop::Else | Stop::ElseIf(_)) => Err(unexpected("\"end\"", "\"else\"".to_owned())),
        }
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        match self.tokens.pop_front() {
            Some(Token::Close) => Ok(()),
            other => Err(unexpected("\"}}\"", describe(other.as_ref()))),
        }
    }

    /// Reads a pipeline up to, and without, what ends it.
    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        let (variables, assigns) = self.declarations();
        let mut commands = vec![self.command()?];
        while self.tokens.front() == Some(&Token::Pipe) {
            self.tokens.pop_front();
            commands.push(self.command()?);
        }
        Ok(Pipeline { variables, assigns, commands })
    }

    /// Reads `$x :=`, `$x =` or `$x, $y :=`, if that is what comes.
    fn declarations(&mut self) -> (Vec<String>, bool) {
        let sign_at = match (self.tokens.front(), self.tokens.get(1)) {
            (Some(Token::Variable(_)), Some(Token::Comma)) => 3,
            (Some(Token::Variable(_)), Some(_)) => 1,
            _ => return (Vec::new(), false),
        };
        let assigns = match self.tokens.get(sign_at) {
            Some(Token::Declare) => false,
            Some(Token::Assign) => true,
            _ => return (Vec::new(), false),
        };
        let variables = self
            .tokens
            .drain(..=sign_at)
            .filter_map(|token| match token {
                Token::Variable(name) => Some(name),
                _ => None,
            })
            .collect();
        (variables, assigns)
    }

    /// Reads operands up to a pipe, a parenthesis or the end of the action.
    fn command(&mut self) -> Result<Vec<Operand>, TemplateError> {
        let mut operands = Vec::new();
        while let Some(token) = self.tokens.front() {
            match token {
                Token::Pipe | Token::Close | Token::CloseParenthesis => break,
                _ => operands.push(self.operand()?),
            }
        }
        if operands.is_empty() {
            return Err(unexpected("a value", describe(self.tokens.front())));
        }
        Ok(operands)
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        match self.tokens.pop_front() {
            Some(Token::Field(names)) => Ok(Operand::Field(names)),
            Some(Token::Literal(value)) => Ok(Operand::Literal(value)),
            Some(Token::Variable(name)) => Ok(Operand::Variable(name, self.chain())),
            Some(Token::Word(name)) => {
                if functions::NAMES.contains(&name.as_str()) {
                    return Ok(Operand::Function(name));
                }
                Err(TemplateError::NoFunction { name, known: functions::NAMES.join(", ") })
            }
            Some(Token::OpenParenthesis) => {
                let pipeline = self.pipeline()?;
                match self.tokens.pop_front() {
                    Some(Token::CloseParenthesis) => {
                        Ok(Operand::Nested(Box::new(pipeline), self.chain()))
                    }
                    other => Err(unexpected("\")\"", describe(other.as_ref()))),
                }
            }
            other => Err(unexpected("a value", describe(other.as_ref()))),
        }
    }

    /// Takes the fields that follow a variable or a parenthesis.
    fn chain(&mut self) -> Vec<String> {
        match self.tokens.front_mut() {
            Some(Token::Field(names)) if !names.is_empty() => {
                let names = std::mem::take(names);
                self.tokens.pop_front();
                names
            }
            _ => Vec::new(),
        }
    }
}

/// What an action turned out to be.
enum Action {
    Node(Node),
    Stop(Stop),
}

fn describe(token: Option<&Token>) -> String {
    token.map_or_else(|| "the end".to_owned(), Token::describe)
}
