//! `Images.List`.

use keg_image::{ImageError, ImageRecord, ImageUser, Images, Reference};
use keg_proto::keg::v1 as pb;

use crate::convert;

/// Lists the images that a request is for.
///
/// # Errors
/// If a name in the request is malformed or stands for nothing, or the database fails.
pub(super) fn list(
    images: &Images,
    request: &pb::ListImagesRequest,
    users: &[ImageUser],
) -> Result<Vec<pb::ImageSummary>, ImageError> {
    let matches = matcher(&request.reference)?;
    let built = |text: &str| match text {
        "" => Ok(None),
        text => images.resolve(text, None).map(|image| image.created_at),
    };
    let (before, since) = (built(&request.before)?, built(&request.since)?);
    let is_between = |image: &ImageRecord| {
        before.is_none_or(|before| image.created_at.is_some_and(|built| built < before))
            && since.is_none_or(|since| image.created_at.is_some_and(|built| built > since))
    };
    let mut list = Vec::new();
    for mut image in images.list()? {
        if !is_between(&image) {
            continue;
        }
        if !request.reference.is_empty() {
            // As with Docker, only the names that match are shown.
            image.names.retain(&matches);
            if image.names.is_empty() {
                continue;
            }
        }
        let containers = users.iter().filter(|user| user.image_id == image.id).count();
        let mut summary = convert::image_to_pb(&image, containers);
        if request.with_variants {
            let variants = images.variants(&image)?;
            summary.variants = variants.iter().map(convert::variant_to_pb).collect();
        }
        list.push(summary);
    }
    Ok(list)
}

/// Tells whether a name is one that is asked for: a repository, a name, or a pattern.
fn matcher(wanted: &str) -> Result<impl Fn(&Reference) -> bool, ImageError> {
    let is_pattern = wanted.contains(['*', '?', '[']);
    let reference = match wanted {
        "" => None,
        _ if is_pattern => None,
        text => Some(
            Reference::parse_untagged(text).map_err(|source| ImageError::Reference { source })?,
        ),
    };
    let pattern = wanted.to_owned();
    Ok(move |name: &Reference| match &reference {
        Some(wanted) => {
            name.repository() == wanted.repository()
                && wanted.tag().is_none_or(|tag| name.tag() == Some(tag))
        }
        None if is_pattern => [name.familiar(), name.familiar_repository(), name.to_string()]
            .iter()
            .any(|text| matches_pattern(&pattern, text)),
        None => true,
    })
}

/// Matches a text against a pattern as Go's `path.Match` does: `*` any letters but `/`, `?` one of
/// them, `[a-z]` and `[^a-z]` one of a class, `\` the next letter itself.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // Where the last star was, and how much of the text it has taken.
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, from));
            at += 1;
            continue;
        }
        if from == text.len() {
            if at == pattern.len() {
                return true;
            }
        } else if let Some(next) = one_letter(&pattern, at, text[from]) {
            (at, from) = (next, from + 1);
            continue;
        }
        match star {
            Some((star_at, taken)) if taken < text.len() && text[taken] != '/' => {
                star = Some((star_at, taken + 1));
                (at, from) = (star_at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Returns where the pattern goes on if it has something for this letter.
fn one_letter(pattern: &[char], at: usize, letter: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => (letter != '/').then_some(at + 1),
        '\\' => (*pattern.get(at + 1)? == letter).then_some(at + 2),
        '[' => {
            let end = at + 1 + pattern[at + 1..].iter().position(|c| *c == ']')?;
            let class = &pattern[at + 1..end];
            let (is_negated, class) = match class.split_first() {
                Some(('^', rest)) => (true, rest),
                _ => (false, class),
            };
            let mut rest = class;
            let mut is_in = false;
            while let Some((first, after)) = rest.split_first() {
                rest = match after {
                    ['-', last, after @ ..] => {
                        is_in |= (*first..=*last).contains(&letter);
                        after
                    }
                    after => {
                        is_in |= *first == letter;
                        after
                    }
                };
            }
            (is_in != is_negated).then_some(end + 1)
        }
        plain => (*plain == letter).then_some(at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_gos_do() {
        let table = [
            ("*", "busybox", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("busy*", "busybox:latest", true),
            ("b?sy*:l*t", "busybox:latest", true),
            ("b?x", "bx", false),
            ("a[0-9]b", "a5b", true),
            ("a[^0-9]b", "a5b", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[", "[", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("", "", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }
}
