//! What templates take from Python: methods, tests, `json.dumps` and `strftime`.
//!
//! Owns: these as Python and Jinja have them, where minijinja differs. Must not know: templates' syntax.

use minijinja::value::Kwargs;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;
use std::time::{SystemTime, UNIX_EPOCH};

/// Nesting of a value at most; a template can build deeper ones than any stack holds.
const MAX_DEPTH: usize = 128;
/// Bytes of one text at most.
const MAX_TEXT: usize = 16 << 20;
/// Spaces of indentation at most.
const MAX_INDENT: usize = 16;

/// Methods of Python's types. Those of texts that can make much out of little are refused before they do: minijinja
/// charges for a result once it is there.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let refuse = |message: &str| Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()));
    if let Some(text) = value.as_str() {
        match name {
            "format" if has_wide_field(text) => {
                return refuse("str.format: a width above 999, or one from an argument");
            }
            "replace" if replaced_len(text, args) > MAX_TEXT => {
                return refuse("str.replace: the result is too long");
            }
            "join" if joined_len(text, args) > MAX_TEXT => {
                return refuse("str.join: the result is too long");
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Whether a replacement field of `str.format` holds four digits in a row or another field.
fn has_wide_field(format: &str) -> bool {
    let (mut inside, mut digits, mut before) = (false, 0, ' ');
    for letter in format.chars() {
        digits = if letter.is_ascii_digit() {
            digits + 1
        } else {
            0
        };
        match letter {
            '{' if inside && before == '{' => inside = false,
            '{' if inside => return true,
            '{' => inside = true,
            '}' => inside = false,
            _ if inside && digits > 3 => return true,
            _ => {}
        }
        before = letter;
    }
    false
}

/// Bytes of `text.replace(from, to)` at most.
fn replaced_len(text: &str, args: &[Value]) -> usize {
    match args {
        [from, to, ..] => match (from.as_str(), to.as_str()) {
            (Some(from), Some(to)) => {
                let places = text.matches(from).count();
                text.len().saturating_add(places.saturating_mul(to.len()))
            }
            _ => 0,
        },
        _ => 0,
    }
}

/// Bytes that `text` itself takes in `text.join(items)`.
fn joined_len(text: &str, args: &[Value]) -> usize {
    let items = args.first().and_then(Value::len).unwrap_or(0);
    text.len().saturating_mul(items)
}

/// Jinja's test `iterable`: not true of `none`, over which minijinja loops zero times.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Jinja's test `sequence`: whatever has a length and items, so texts and mappings too.
pub(super) fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Bytes, Map, Seq, String, Undefined};
    matches!(value.kind(), String | Bytes | Seq | Map | Undefined)
}

/// The filter `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)` of transformers: Python's
/// `json.dumps`, so `, ` and `: ` between things, and no escaping for HTML.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a filter")]
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let refuse = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(refuse(format!("tojson: an indent above {MAX_INDENT}")));
    }
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(refuse("tojson: separators are two texts".to_owned())),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let writer = Writer {
        indent,
        item,
        key,
        ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(refuse("tojson: the value is undefined".to_owned()));
    }
    check_depth(value, 0)?;
    let json = serde_json::to_value(value).map_err(|e| refuse(format!("tojson: {e}")))?;
    let mut text = String::new();
    writer.write(&json, 0, &mut text);
    if text.len() > MAX_TEXT {
        return Err(refuse(format!("tojson: more than {MAX_TEXT} bytes")));
    }
    Ok(Value::from_safe_string(text))
}

fn check_depth(value: &Value, depth: usize) -> Result<(), Error> {
    use minijinja::value::ValueKind::{Iterable, Map, Seq};
    if !matches!(value.kind(), Seq | Map | Iterable) {
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: nested deeper than {MAX_DEPTH}"),
        ));
    }
    let is_map = value.kind() == Map;
    for item in value.try_iter()? {
        let item = if is_map { value.get_item(&item)? } else { item };
        check_depth(&item, depth + 1)?;
    }
    Ok(())
}

/// How JSON is written.
struct Writer {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Writer {
    fn write(&self, value: &Json, depth: usize, text: &mut String) {
        match value {
            Json::Null => text.push_str("null"),
            Json::Bool(true) => text.push_str("true"),
            Json::Bool(false) => text.push_str("false"),
            Json::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() => text.push_str(&float_repr(float)),
                _ => text.push_str(&number.to_string()),
            },
            Json::String(string) => self.string(string, text),
            Json::Array(items) if items.is_empty() => text.push_str("[]"),
            Json::Array(items) => {
                text.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.between(i, depth + 1, text);
                    self.write(item, depth + 1, text);
                }
                self.line(depth, text);
                text.push(']');
            }
            Json::Object(map) if map.is_empty() => text.push_str("{}"),
            Json::Object(map) => {
                let mut pairs: Vec<_> = map.iter().collect();
                if self.sort {
                    pairs.sort_by_key(|(key, _)| *key);
                }
                text.push('{');
                for (i, (key, item)) in pairs.into_iter().enumerate() {
                    self.between(i, depth + 1, text);
                    self.string(key, text);
                    text.push_str(&self.key);
                    self.write(item, depth + 1, text);
                }
                self.line(depth, text);
                text.push('}');
            }
        }
    }

    fn between(&self, i: usize, depth: usize, text: &mut String) {
        if i > 0 {
            text.push_str(&self.item);
        }
        self.line(depth, text);
    }

    fn line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for c in string.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        text.push_str("\\u");
                        let digit =
                            |shift: u16| char::from_digit(u32::from(*unit >> shift & 15), 16);
                        text.extend([12, 8, 4, 0].into_iter().filter_map(digit));
                    }
                }
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits, an exponent below 1e-4 and from 1e16 on.
fn float_repr(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The function `strftime_now(format)`: the date of now, in UTC.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature of a template function"
)]
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    strftime(&format, now.map_or(0, |now| now.as_secs()))
        .map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// Python's `strftime` in the C locale; `seconds` since 1970 in UTC.
fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let weekday = DAYS[((days + 3) % 7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let (hour12, half) = ((hour + 11) % 12 + 1, if hour < 12 { "AM" } else { "PM" });

    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let part = match letters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour12:02}"),
            Some('p') => half.to_owned(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('j') => format!("{:03}", days - days_before(year) + 1),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('-') => match letters.next() {
                Some('d') => day.to_string(),
                Some('m') => month.to_string(),
                Some('H') => hour.to_string(),
                Some('I') => hour12.to_string(),
                other => return Err(unknown('-', other)),
            },
            Some('%') => "%".to_owned(),
            other => return Err(unknown('%', other)),
        };
        text.push_str(&part);
    }
    Ok(text)
}

fn unknown(before: char, letter: Option<char>) -> String {
    let letter = letter.map_or("the end".to_owned(), |letter| format!("`{letter}`"));
    format!("strftime_now: {letter} after `{before}` is not supported")
}

/// Year, month and day of a day since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let part = (5 * of_year + 2) / 153;
    let day = of_year - (153 * part + 2) / 5 + 1;
    let month = if part < 10 { part + 3 } else { part - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_before(year: u64) -> u64 {
    let before = year - 1;
    365 * year + before / 4 - before / 100 + before / 400 - 719_527
}

#[cfg(test)]
mod tests;
