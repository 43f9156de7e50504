//! A tree and a value to text.

use super::parser::{Node, Operand, Pipeline};
use super::{TemplateError, Value, functions};

/// Fills in a template.
pub(super) fn render(nodes: &[Node], value: &Value) -> Result<String, TemplateError> {
    let mut scope = Scope { variables: vec![("$".to_owned(), value.clone())], out: String::new() };
    scope.nodes(nodes, value)?;
    Ok(scope.out)
}

/// Whether a list of nodes ran through, or asked to leave the loop around it.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Scope {
    /// Innermost last.
    variables: Vec<(String, Value)>,
    out: String,
}

impl Scope {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&value.to_string());
                }
            }
            Node::If { branches, otherwise } => {
                let depth = self.variables.len();
                let flow = self.branches(branches, otherwise, dot)?;
                self.variables.truncate(depth);
                return Ok(flow);
            }
            Node::With { pipeline, body, otherwise } => {
                let depth = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = if value.is_true() {
                    self.nodes(body, &value)?
                } else {
                    self.nodes(otherwise, dot)?
                };
                self.variables.truncate(depth);
                return Ok(flow);
            }
            Node::Range { pipeline, body, otherwise } => {
                return self.range(pipeline, body, otherwise, dot);
            }
        }
        Ok(Flow::On)
    }

    fn branches(
        &mut self,
        branches: &[(Pipeline, Vec<Node>)],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        for (test, body) in branches {
            if self.pipeline(test, dot)?.is_true() {
                return self.nodes(body, dot);
            }
        }
        self.nodes(otherwise, dot)
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let walked = self.commands(&pipeline.commands, dot)?;
        let items = items_of(walked)?;
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, value) in items {
            let depth = self.variables.len();
            match pipeline.variables.as_slice() {
                [one] => self.variables.push((one.clone(), value.clone())),
                [first, second] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), value.clone()));
                }
                _ => {}
            }
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(depth);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    /// The value of a pipeline, kept in its variables if it has some.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(&pipeline.commands, dot)?;
        for name in &pipeline.variables {
            if pipeline.assigns {
                let slot = self.variables.iter_mut().rev().find(|(known, _)| known == name);
                match slot {
                    Some((_, slot)) => *slot = value.clone(),
                    None => return Err(TemplateError::NoVariable { name: name.clone() }),
                }
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn commands(&mut self, commands: &[Vec<Operand>], dot: &Value) -> Result<Value, TemplateError> {
        let mut piped = None;
        for command in commands {
            piped = Some(self.command(command, piped.take(), dot)?);
        }
        Ok(piped.unwrap_or(Value::Null))
    }

    /// One command: a function with arguments, a method with a key, or a value alone.
    fn command(
        &mut self,
        command: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let Some((head, rest)) = command.split_first() else {
            return Ok(Value::Null);
        };
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        if let Operand::Function(name) = head {
            return functions::call(name, arguments);
        }
        let value = self.operand(head, dot)?;
        match (&value, arguments.as_slice()) {
            (_, []) => Ok(value),
            (Value::Lookup(entries), [Value::Text(key)]) => {
                Ok(Value::text(entries.get(key).cloned().unwrap_or_default()))
            }
            (_, arguments) => Err(TemplateError::ArgumentCount {
                function: value.kind().to_owned(),
                takes: "no arguments",
                got: arguments.len(),
            }),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(names) => chain(dot, names),
            Operand::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                match found {
                    Some((_, value)) => chain(value, names),
                    None => Err(TemplateError::NoVariable { name: name.clone() }),
                }
            }
            Operand::Nested(pipeline, names) => {
                let value = self.pipeline(pipeline, dot)?;
                chain(&value, names)
            }
            Operand::Function(name) => functions::call(name, Vec::new()),
        }
    }
}

/// Follows field names into a value.
fn chain(value: &Value, names: &[String]) -> Result<Value, TemplateError> {
    let mut value = value;
    for field in names {
        value = match value {
            Value::Record(fields) => match fields.iter().find(|(name, _)| name == field) {
                Some((_, value)) => value.plain(),
                None => return Err(no_field(field, fields)),
            },
            Value::Map(entries) => match entries.get(field) {
                Some(value) => value.plain(),
                None => return Ok(Value::Null),
            },
            Value::Null | Value::Nil(_) => return Ok(Value::Null),
            other => {
                return Err(TemplateError::NotAnObject { field: field.clone(), of: other.kind() });
            }
        };
    }
    Ok(value.clone())
}

fn no_field(field: &str, fields: &[(&'static str, Value)]) -> TemplateError {
    let mut known: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    TemplateError::NoField { field: field.to_owned(), known: known.join(", ") }
}

/// Elements with their keys.
fn items_of(value: Value) -> Result<Vec<(Value, Value)>, TemplateError> {
    match value {
        Value::Null | Value::Nil(_) => Ok(Vec::new()),
        Value::List(items) => Ok((0_i64..).map(Value::Int).zip(items).collect()),
        Value::Map(entries) => {
            Ok(entries.into_iter().map(|(key, value)| (Value::Text(key), value)).collect())
        }
        Value::Int(count) => Ok((0..count).map(|n| (Value::Int(n), Value::Int(n))).collect()),
        other => Err(TemplateError::NotIterable { got: other.kind() }),
    }
}
