//! Go's `printf`, for the verbs that templates use: `%v %s %d %q %t %x %f %%`, with the flags `-`
//! and `0`, a width and a precision.

use super::Value;

/// Formats values.
pub(super) fn format(format: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = characters.next_if(|c| "-0+# ".contains(*c)) {
            verb.left |= flag == '-';
            verb.zeros |= flag == '0';
            verb.plus |= flag == '+';
        }
        verb.width = number(&mut characters).unwrap_or(0);
        if characters.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut characters).unwrap_or(0));
        }
        match characters.next() {
            Some('%') => out.push('%'),
            Some(letter) => match values.next() {
                Some(value) => out.push_str(&verb.apply(letter, value)),
                None => out.push_str(&format!("%!{letter}(MISSING)")),
            },
            None => out.push_str("%!(NOVERB)"),
        }
    }
    out
}

/// Widest field that is padded to; a larger width is taken for this one.
const MAX_WIDTH: usize = 4096;

/// Reads a number, if one comes.
fn number(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = characters.peek().and_then(|c| c.to_digit(10)) {
        let digit = usize::try_from(digit).unwrap_or(0);
        number = Some((number.unwrap_or(0) * 10 + digit).min(MAX_WIDTH));
        characters.next();
    }
    number
}

/// One `%…`.
#[derive(Default)]
struct Verb {
    left: bool,
    zeros: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

impl Verb {
    fn apply(&self, letter: char, value: &Value) -> String {
        let text = match (letter, value) {
            ('v' | 's' | 't', Value::Float(number)) => number.to_string(),
            ('v' | 's', value) => self.cut(value.to_string()),
            ('d', Value::Int(number)) if self.plus => format!("{number:+}"),
            ('d', Value::Int(number)) => number.to_string(),
            ('t', Value::Bool(value)) => value.to_string(),
            ('q', Value::Text(text)) => Value::text(self.cut(text.clone())).to_json(),
            ('x', Value::Int(number)) => format!("{number:x}"),
            ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('f', Value::Float(number)) => {
                format!("{number:.precision$}", precision = self.precision.unwrap_or(6))
            }
            (letter, value) => format!("%!{letter}({value})"),
        };
        self.pad(text, matches!(value, Value::Int(_) | Value::Float(_)))
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(length) => text.chars().take(length).collect(),
            None => text,
        }
    }

    fn pad(&self, text: String, is_number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        if self.left {
            return text + &" ".repeat(missing);
        }
        if !(self.zeros && is_number) {
            return " ".repeat(missing) + &text;
        }
        match text.strip_prefix('-') {
            Some(digits) => format!("-{}{digits}", "0".repeat(missing)),
            None => "0".repeat(missing) + &text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_print_as_go_prints_them() {
        let table = [
            ("%5.2f|", vec![Value::Float(2.345)], " 2.35|"),
            ("%-4d|%04d", vec![Value::Int(7), Value::Int(-7)], "7   |-007"),
            ("%x %x", vec![Value::Int(255), Value::text("az")], "ff 617a"),
            ("%.2s", vec![Value::text("abc")], "ab"),
            ("%d", vec![Value::text("abc")], "%!d(abc)"),
            ("%s %s", vec![Value::text("a")], "a %!s(MISSING)"),
            ("100%", vec![], "100%!(NOVERB)"),
            ("%v", vec![Value::texts(["a", "b"])], "[a b]"),
        ];
        for (source, values, expected) in table {
            assert_eq!(format(source, &values), expected, "{source}");
        }
    }

    #[test]
    fn a_width_cannot_take_all_memory() {
        let text = format("%99999999999999d", &[Value::Int(1)]);

        assert_eq!(text.len(), MAX_WIDTH);
    }
}
