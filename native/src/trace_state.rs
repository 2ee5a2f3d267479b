//! The member `ot` of a W3C tracestate: the randomness that a trace has agreed on (`rv`) and the threshold that
//! samplers have applied to it so far (`th`). Grammar: W3C Trace Context Level 2, section 3.3; OpenTelemetry
//! specification, "TraceState Handling".

const OT: &[u8] = b"ot";
const MOST_MEMBERS: usize = 32;
const MOST_KEY: usize = 256;
const MOST_VALUE: usize = 256;
/// 56 bits.
const DIGITS: usize = 14;

/// A threshold as it is written: `th:` and its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    digits: [u8; DIGITS],
    length: usize,
}

impl Threshold {
    /// `threshold`: less than 2^56.
    pub fn new(threshold: u64) -> Self {
        let mut digits = [b'0'; DIGITS];
        for (at, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(threshold >> (4 * (DIGITS - 1 - at)) & 0xf) as usize];
        }
        let length = digits.iter().rposition(|digit| *digit != b'0').map_or(1, |last| last + 1);
        Self { digits, length }
    }

    fn digits(&self) -> &[u8] {
        &self.digits[..self.length]
    }
}

/// What a tracestate says about sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceState<'a> {
    /// Of `rv`; None if there is none, or what there is means nothing.
    pub randomness: Option<u64>,
    /// Of `th`; likewise.
    pub threshold: Option<u64>,
    text: &'a [u8],
    /// The value of the member `ot`.
    ot: &'a [u8],
}

impl<'a> TraceState<'a> {
    /// None where a strict reader would refuse the text: nothing that is written into it would be understood.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let mut ot = None;
        let mut count = 0;
        for (key, value) in members(text).map(|member| split(member, b'=')) {
            let value = value?;
            count += 1;
            if count > MOST_MEMBERS || !is_key(key) || !is_value(value) || (key == OT && ot.is_some()) {
                return None;
            }
            if key == OT {
                ot = Some(value);
            }
        }
        let mut found = Self { text, ot: ot.unwrap_or_default(), ..Self::default() };
        found.read_ot()?;
        Some(found)
    }

    fn read_ot(&mut self) -> Option<()> {
        let (mut rv, mut th) = (None, None);
        for (key, value) in entries(self.ot).map(|entry| split(entry, b':')) {
            let value = value?;
            if !is_ot_key(key) || !value.iter().all(|byte| is_ot_value(*byte)) {
                return None;
            }
            let once = match key {
                b"rv" => &mut rv,
                b"th" => &mut th,
                _ => continue,
            };
            if once.replace(value).is_some() {
                return None;
            }
        }
        self.randomness = rv.filter(|value| value.len() == DIGITS).and_then(hex);
        self.threshold = th.filter(|value| (1..=DIGITS).contains(&value.len())).and_then(|value| {
            hex(value).map(|threshold| threshold << (4 * (DIGITS - value.len())))
            // written without trailing zeros
        });
        Some(())
    }

    /// Whether `write` keeps to the limit on the length of a member's value.
    pub fn has_room_for(&self, threshold: &Threshold) -> bool {
        let others: usize = self.others().map(|entry| entry.len() + 1).sum();
        others + b"th:".len() + threshold.length <= MOST_VALUE
    }

    /// Appends the same tracestate with this threshold. A member that was changed moves to the front, the others
    /// keep their order, and of more than there may be the last goes: so W3C wants it.
    pub fn write(&self, threshold: &Threshold, out: &mut Vec<u8>) {
        out.extend_from_slice(b"ot=");
        let mut written = false;
        for entry in entries(self.ot) {
            if is_threshold(entry) {
                push_threshold(threshold, out);
                written = true;
            } else {
                out.extend_from_slice(entry);
            }
            out.push(b';');
        }
        if written {
            out.pop();
        } else {
            push_threshold(threshold, out);
        }
        let others = members(self.text).filter(|member| split(member, b'=').0 != OT);
        for member in others.take(MOST_MEMBERS - 1) {
            out.push(b',');
            out.extend_from_slice(member);
        }
    }

    fn others(&self) -> impl Iterator<Item = &'a [u8]> {
        entries(self.ot).filter(|entry| !is_threshold(entry))
    }
}

fn push_threshold(threshold: &Threshold, out: &mut Vec<u8>) {
    out.extend_from_slice(b"th:");
    out.extend_from_slice(threshold.digits());
}

fn is_threshold(entry: &[u8]) -> bool {
    entry.starts_with(b"th:")
}

/// The members of a tracestate, without the blanks around them; empty ones are allowed, and left out.
fn members(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b',').map(trimmed).filter(|member| !member.is_empty())
}

fn trimmed(mut member: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = member {
        member = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = member {
        member = rest;
    }
    member
}

fn entries(ot: &[u8]) -> impl Iterator<Item = &[u8]> {
    // An empty value has no entries, but splits into an empty one.
    ot.split(|byte| *byte == b';').filter(move |_| !ot.is_empty())
}

fn split(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == at) {
        Some(found) => (&text[..found], Some(&text[found + 1..])),
        None => (text, None),
    }
}

fn is_key(key: &[u8]) -> bool {
    let is_part = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let first = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    first && key.len() <= MOST_KEY && key.iter().all(is_part)
}

fn is_value(value: &[u8]) -> bool {
    let is_part = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    (1..=MOST_VALUE).contains(&value.len()) && value.iter().all(is_part)
}

fn is_ot_key(key: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.first().is_some_and(u8::is_ascii_lowercase) && key.iter().all(is_part)
}

fn is_ot_value(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Of lower-case digits, as both values must be; at most 16.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number: u64, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests;
