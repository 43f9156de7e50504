//! Contexts of SELinux: `user:role:type:level`, where a level has colons of its own.

use std::fmt;

/// A context, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// SELinux' user.
    pub user: String,
    /// Role; `object_r` for files.
    pub role: String,
    /// Type, of a process its domain.
    pub kind: String,
    /// Sensitivity and categories; `None` where the policy has no levels.
    pub level: Option<String>,
}

impl Context {
    /// Takes a context apart; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let level = parts.next();
        let whole = [&user, &role, &kind].into_iter().chain(&level).all(|part| !part.is_empty());
        whole.then_some(Self { user, role, kind, level })
    }

    /// The sensitivity without categories: `s0`; `None` where the policy has no levels.
    pub fn sensitivity(&self) -> Option<&str> {
        self.level.as_deref().map(|level| level.split([':', '-']).next().unwrap_or(level))
    }

    /// The same with other categories, where the policy has levels.
    pub fn with_categories(&self, pair: Pair) -> Self {
        let level = self.sensitivity().map(|sensitivity| format!("{sensitivity}:{pair}"));
        Self { level, ..self.clone() }
    }

    /// The same without categories.
    pub fn without_categories(&self) -> Self {
        Self { level: self.sensitivity().map(str::to_owned), ..self.clone() }
    }

    /// The two categories, if there are just two.
    pub fn categories(&self) -> Option<Pair> {
        Pair::parse(self.level.as_deref()?.split_once(':')?.1)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.iter().try_for_each(|level| write!(f, ":{level}"))
    }
}

/// Two different categories, by which containers are kept apart. The lower one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair(u16, u16);

impl Pair {
    /// Of two numbers in any order; `None` if they are equal.
    pub fn of(one: u16, other: u16) -> Option<Self> {
        (one != other).then(|| Self(one.min(other), one.max(other)))
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.strip_prefix('c')?.parse().ok();
        let (one, other) = text.split_once(',')?;
        Self::of(number(one)?, number(other)?)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{},c{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_taken_apart_and_put_together() {
        let text = "system_u:system_r:container_t:s0:c1,c22";
        let context = Context::parse(text).unwrap();

        assert_eq!(context.to_string(), text);
        assert_eq!((context.kind.as_str(), context.sensitivity()), ("container_t", Some("s0")));
        assert_eq!(context.categories(), Pair::of(22, 1));
        assert_eq!(context.without_categories().to_string(), "system_u:system_r:container_t:s0");
        let other = context.with_categories(Pair::of(9, 3).unwrap());
        assert_eq!(other.to_string(), "system_u:system_r:container_t:s0:c3,c9");
    }

    #[test]
    fn a_policy_without_levels_gets_no_categories() {
        let context = Context::parse("u:r:container_t").unwrap();

        assert_eq!(context.with_categories(Pair(1, 2)).to_string(), "u:r:container_t");
        for bad in ["", "u:r", "u::t:s0", "u:r:t:"] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
        for (text, pair) in [("u:r:t:s0-s0:c0.c1023", None), ("u:r:t:s0", None)] {
            assert_eq!(Context::parse(text).unwrap().categories(), pair, "{text}");
        }
    }
}
