use super::*;
use crate::protobuf::validate;
use crate::schema::REQUEST;
use crate::wire::scan;
use crate::wire::tests::request;

/// A whole attribute of the least size.
const RUN: &[u8] = &[0x4a, 3, 0x0a, 1, b'k'];

fn splice(body: &[u8], ordinals: &[usize], run: &[u8]) -> Result<Vec<u8>, Refused> {
    let patches: Vec<Patch> = ordinals.iter().map(|ordinal| Patch { ordinal: *ordinal, run }).collect();
    let plan = Plan::new(body, &scan(body).unwrap(), &patches)?;
    let mut out = vec![MaybeUninit::new(0xaa); plan.size()];
    plan.write(&mut out);
    // SAFETY: all of it was initialised above.
    Ok(out.iter().map(|byte| unsafe { byte.assume_init() }).collect())
}

#[test]
fn every_choice_of_spans_gives_a_valid_request_with_these_spans_longer() {
    let body = request(&[2, 0, 1, 3]);
    let before = scan(&body).unwrap();
    for choice in 0..1 << 6 {
        let ordinals: Vec<usize> = (0..6).filter(|ordinal| choice >> ordinal & 1 == 1).collect();
        let result = splice(&body, &ordinals, RUN).unwrap();
        assert_eq!(validate(&result, &REQUEST, 0), Ok(()));
        let after = scan(&result).unwrap();
        assert_eq!(after.spans.len(), 6);
        for (ordinal, (was, is)) in before.spans.iter().zip(&after.spans).enumerate() {
            let original = &body[was.extent.start as usize..was.extent.end as usize];
            let expected =
                if ordinals.contains(&ordinal) { [original, RUN].concat() } else { original.to_vec() };
            assert_eq!(result[is.extent.start as usize..is.extent.end as usize], expected);
        }
    }
}

#[test]
fn without_patches_nothing_changes() {
    let body = request(&[2]);
    assert_eq!(splice(&body, &[], RUN), Ok(body));
}

#[test]
fn ordinals_must_ascend_and_exist() {
    let body = request(&[2]);
    for ordinals in [&[1, 0][..], &[0, 0], &[2]] {
        assert_eq!(splice(&body, ordinals, RUN), Err(Refused::Ordinals));
    }
}

#[test]
fn a_length_that_was_written_too_wide_is_written_as_short_as_it_can_be() {
    // ResourceSpans, ScopeSpans and Span, each with a length of five bytes.
    let body =
        [0x0a, 0x8c, 0x80, 0x80, 0x80, 0, 0x12, 0x86, 0x80, 0x80, 0x80, 0, 0x12, 0x80, 0x80, 0x80, 0x80, 0];
    let result = splice(&body, &[0], RUN).unwrap();
    assert_eq!(result, [&[0x0a, 9, 0x12, 7, 0x12, 5], RUN].concat());
}
