//! A request in two: joined requests are one after the other, so between two of its ResourceSpans one can be cut without
//! being read.

use crate::protobuf::{Malformed, Reader};
use crate::schema;

/// Where to cut, so that both parts are requests and as equal as can be; None: it has one part only.
pub fn middle(body: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut best: Option<usize> = None;
    let mut reader = Reader::new(body);
    while !reader.is_at_end() {
        let (number, wire) = reader.tag()?;
        reader.check(number, wire, &schema::ANY, 0)?;
        if reader.is_at_end() {
            break;
        }
        let off = |at: usize| (2 * at).abs_diff(body.len());
        if best.is_none_or(|best| off(reader.at) < off(best)) {
            best = Some(reader.at);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(length: usize) -> Vec<u8> {
        let mut field = vec![10, length as u8];
        field.resize(length + 2, 0);
        field
    }

    #[test]
    fn it_is_cut_where_the_parts_are_most_equal() {
        for (lengths, expected) in [
            (vec![10, 10], Some(12)),
            (vec![50, 1, 1], Some(52)),
            (vec![1, 1, 50], Some(6)),
            (vec![0, 0, 0, 0], Some(4)),
            (vec![100], None),
            (vec![], None),
        ] {
            let body: Vec<u8> = lengths.into_iter().flat_map(field).collect();
            assert_eq!(middle(&body), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_request_is_not_cut() {
        assert_eq!(middle(b"\n\x05ab"), Err(Malformed));
    }
}
