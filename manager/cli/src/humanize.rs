//! Quantities in words, as Docker's client says them.

/// Characters of an id that are shown.
pub(crate) const SHORT_ID_LENGTH: usize = 12;

/// Says roughly how long a time is: "About a minute", "3 hours".
pub(crate) fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let minutes = seconds / 60;
    // Half an hour and more counts as an hour.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., ..48) => format!("{hours} hours"),
        (.., ..336) => format!("{} days", hours / 24),
        (.., ..1440) => format!("{} weeks", hours / 24 / 7),
        (.., ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Says a number of bytes with three digits: "4.43MB", "1.2kB"; a thousand make the next unit.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Says a number of bytes with four digits in powers of 1024: "7.654GiB".
pub(crate) fn binary_size(bytes: u64) -> String {
    let (value, unit) = reduce(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]);
    format!("{}{unit}", digits(value, 4))
}

fn scaled(bytes: u64, base: u32, units: &[&'static str]) -> String {
    let (mut value, mut unit) = reduce(bytes, base, units);
    // 999.7 kB has three digits only as 1 MB.
    if value >= 999.5 {
        let next = units.iter().position(|name| *name == unit).map_or(0, |index| index + 1);
        if let Some(name) = units.get(next) {
            (value, unit) = (1.0, name);
        }
    }
    format!("{}{unit}", digits(value, 3))
}

/// Divides until the value is below the base.
fn reduce(bytes: u64, base: u32, units: &[&'static str]) -> (f64, &'static str) {
    let mut whole = bytes;
    let mut remainder = 0;
    let mut index = 0;
    while whole >= u64::from(base) && index + 1 < units.len() {
        remainder = whole % u64::from(base);
        whole /= u64::from(base);
        index += 1;
    }
    // Both are below the base or, in the last unit, below 19: no precision is lost.
    let as_float = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    (
        as_float(whole) + as_float(remainder) / f64::from(base),
        units.get(index).copied().unwrap_or(""),
    )
}

/// A number with so many significant digits, without zeros at its end.
fn digits(value: f64, significant: usize) -> String {
    let before_point = match value {
        ..10.0 => 1,
        ..100.0 => 2,
        ..1000.0 => 3,
        _ => 4,
    };
    let text = format!("{value:.decimals$}", decimals = significant.saturating_sub(before_point));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// The first characters of an id, without the name of a digest's algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..SHORT_ID_LENGTH).unwrap_or(hex)
}

/// Cuts text to so many characters, the last of them "…" if something is missing.
pub(crate) fn ellipsis(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

/// A command line as it would be typed, words with spaces quoted.
pub(crate) fn command_line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words = words.into_iter().map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Text in double quotes, with what a terminal would act upon escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            control if control.is_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        let table = [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * 60, "59 minutes"),
            (HOUR, "About an hour"),
            (89 * 60, "About an hour"),
            (90 * 60, "2 hours"),
            (47 * HOUR, "47 hours"),
            (48 * HOUR, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (60 * DAY, "2 months"),
            (729 * DAY, "24 months"),
            (730 * DAY, "2 years"),
        ];
        for (seconds, expected) in table {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        let table = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_430_000, "4.43MB"),
            (77_800_000, "77.8MB"),
            (123_456_789, "123MB"),
            (999_700, "1MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn memory_is_said_in_powers_of_1024() {
        assert_eq!(binary_size(8_218_742_784), "7.654GiB");
        assert_eq!(binary_size(512), "512B");
        assert_eq!(binary_size(1024 * 1024), "1MiB");
    }

    #[test]
    fn ids_are_cut_and_lose_their_algorithm() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
    }

    #[test]
    fn commands_are_quoted_and_cut() {
        let line = command_line(["sh", "-c", "echo a\tb"]);

        assert_eq!(line, "sh -c 'echo a\tb'");
        assert_eq!(quoted(&ellipsis(&line, 13)), "\"sh -c 'echo …\"");
        assert_eq!(quoted("a\t\u{1b}[2J\""), r#""a\t\x1b[2J\"""#);
        assert_eq!(ellipsis("same", 4), "same");
    }
}
