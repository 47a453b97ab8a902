//! Text for people: numbers rounded to what an eye takes in, and hostile strings made harmless.

/// Replaces what could move a cursor, colour a terminal, or turn the direction of writing by its escape.
pub(super) fn sanitise(text: &str) -> String {
    if !text.contains(is_hostile) {
        return text.to_owned();
    }
    text.chars().fold(String::new(), |mut out, c| {
        if is_hostile(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// The same, for texts whose lines belong to them: the errors of a configuration.
pub(super) fn sanitise_lines(text: &str) -> String {
    text.lines().map(sanitise).collect::<Vec<_>>().join("\n")
}

/// The same for JSON: whatever serde leaves of it stands in a string, where an escape means the same.
pub(super) fn sanitise_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Marks, overrides and isolates of direction; line and paragraph separators.
            '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Invisible: zero-width characters, the byte order mark, tags.
            | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

const SI: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
const BINARY: [(f64, &str); 4] =
    [(1_099_511_627_776.0, " TiB"), (1_073_741_824.0, " GiB"), (1_048_576.0, " MiB"), (1024.0, " KiB")];

fn scaled(value: f64, steps: &[(f64, &str)], small: impl Fn(f64) -> String) -> String {
    for (step, unit) in steps {
        if value >= *step {
            return format!("{}{unit}", three_digits(value / step));
        }
    }
    small(value)
}

/// Cut rather than rounded, so that 999,999 does not become `1000k`.
fn three_digits(value: f64) -> String {
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    let factor = f64::from(10_u32.pow(digits));
    // 1.15 is stored as a little less, and 1.14 is not what anybody would cut it to.
    let cut = (value * factor + 1e-6).floor() / factor;
    format!("{cut:.*}", digits as usize)
}

/// Up to here a count is shown as it is: shorter would say less.
const EXACT_BELOW: u64 = 10_000;

/// `950`, `9500`, `12.3k`, `45.6M`.
pub(super) fn count(value: u64) -> String {
    if value < EXACT_BELOW { value.to_string() } else { scaled(value as f64, &SI, |_| value.to_string()) }
}

/// `0`, `3.2`, `45`, `1.23k`; per second where it stands.
pub(super) fn rate(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    scaled(value, &SI, |value| match value {
        0.0 => "0".to_owned(),
        _ if value < 0.1 => "<0.1".to_owned(),
        _ if value < 10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    })
}

pub(super) fn bytes(value: u64) -> String {
    scaled(value as f64, &BINARY, |_| format!("{value} B"))
}

/// `33.3%` of a share from 0 to 1.
pub(super) fn share(value: f64) -> String {
    if value.is_finite() { format!("{:.1}%", value * 100.0) } else { "-".to_owned() }
}

pub(super) fn millis(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "-".to_owned(),
        _ if value < 10.0 => format!("{value:.2}ms"),
        _ if value < 1_000.0 => format!("{value:.0}ms"),
        _ => format!("{:.1}s", value / 1_000.0),
    }
}

/// `3s`, `4m 12s`, `2h 5m`, `1d 2h`: the two units that matter.
pub(super) fn age(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    // Saturates far beyond any uptime.
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_hostile_is_left(text in any::<String>()) {
            prop_assert!(!sanitise(&text).contains(is_hostile));
        }

        #[test]
        fn json_keeps_its_meaning(text in any::<String>(), hostile in "[\u{7f}-\u{9f}\u{200b}-\u{202e}\u{e0001}]{0,5}") {
            let value = serde_json::json!({ "text": text, "hostile": hostile });
            let json = sanitise_json(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert!(!json.contains(|c| c != '\n' && is_hostile(c)), "{}", json);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
        }

        #[test]
        fn harmless_text_is_left_alone(text in "[a-zA-Z0-9 äß中\"',<>\\\\]{0,40}") {
            prop_assert_eq!(sanitise(&text), text);
        }

        #[test]
        fn every_number_fits_its_column(value in any::<u64>(), float in any::<f64>()) {
            prop_assert!(count(value).len() <= 9, "{}", count(value));
            prop_assert!(rate(float.abs() % 1e15).len() <= 5);
            prop_assert!(age(float.abs() % 1e9).len() <= 10);
        }
    }

    #[test]
    fn hostile_text_is_shown_escaped() {
        assert_eq!(sanitise("a\u{1b}[2Jb\r\nc\u{7}\u{9b}1m\u{202e}"), "a\\u{1b}[2Jb\\r\\nc\\u{7}\\u{9b}1m\\u{202e}");
        assert_eq!(sanitise_lines("one\ntwo\u{1b}"), "one\ntwo\\u{1b}");
    }

    #[test]
    fn numbers_are_rounded_for_people() {
        let checks = [
            (count(0), "0"),
            (count(999), "999"),
            (count(9_999), "9999"),
            (count(10_000), "10.0k"),
            (rate(1_150.0), "1.15k"),
            (count(999_999), "999k"),
            (count(12_345_678), "12.3M"),
            (rate(0.0), "0"),
            (rate(0.04), "<0.1"),
            (rate(9.87), "9.9"),
            (rate(99.9), "100"),
            (rate(15_432.1), "15.4k"),
            (rate(f64::NAN), "-"),
            (rate(-1.0), "-"),
            (bytes(1023), "1023 B"),
            (bytes(8 << 20), "8.00 MiB"),
            (share(0.33333), "33.3%"),
            (share(f64::INFINITY), "-"),
            (millis(1.234), "1.23ms"),
            (millis(250.0), "250ms"),
            (millis(12_345.0), "12.3s"),
            (age(59.9), "59s"),
            (age(252.0), "4m 12s"),
            (age(7_505.0), "2h 5m"),
            (age(93_784.0), "1d 2h"),
            (age(f64::NAN), "-"),
        ];
        for (shown, expected) in checks {
            assert_eq!(shown, expected);
        }
    }
}
