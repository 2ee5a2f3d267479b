use super::*;

const ALL: [Encoding; 4] = [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

fn text(size: usize) -> Bytes {
    (0..size).map(|at| (at * at / 7 % 251) as u8).collect::<Vec<u8>>().into()
}

#[test]
fn what_is_put_on_comes_off_again() {
    for encoding in ALL {
        for size in [0, 1, 1000, 300_000] {
            let segments = [text(size), Bytes::new(), text(size / 2)];
            let encoded = compress(encoding, &segments);
            let decoded = decompress(encoding, &encoded, size + size / 2).unwrap();
            assert_eq!(decoded, segments.concat(), "{encoding:?} {size}");
        }
    }
}

#[test]
fn a_byte_beyond_the_limit_is_too_many() {
    for encoding in ALL {
        let encoded = compress(encoding, &[text(100_000)]);
        assert_eq!(decompress(encoding, &encoded, 99_999), Err(Unusable::TooLarge), "{encoding:?}");
        assert_eq!(decompress(encoding, &encoded, 0), Err(Unusable::TooLarge), "{encoding:?}");
    }
}

#[test]
fn what_breaks_off_is_malformed() {
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        let encoded = compress(encoding, &[text(100_000)]);
        for end in [0, 1, 5, encoded.len() / 2, encoded.len() - 1] {
            assert_eq!(
                decompress(encoding, &encoded[..end], 1 << 20),
                Err(Unusable::Malformed),
                "{encoding:?} {end}"
            );
        }
    }
}

#[test]
fn no_more_is_held_than_the_limit_whatever_the_end_says() {
    let zeros = Bytes::from(vec![0; 64 << 20]);
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        let encoded = compress(encoding, std::slice::from_ref(&zeros));
        let mut decoder = Decoder::new(encoding, encoded, 1 << 20).unwrap();
        let end = loop {
            match decoder.step(64 << 10) {
                Ok(false) => assert!(decoder.memory() <= 4 << 20),
                end => break end,
            }
        };
        assert_eq!(end, Err(Unusable::TooLarge), "{encoding:?}");
        assert!(decoder.memory() <= 4 << 20);
    }
    let mut lying = compress(Encoding::Gzip, &[text(10)]).to_vec();
    let size = lying.len();
    lying[size - 4..].fill(0xff);
    assert!(Decoder::new(Encoding::Gzip, lying.into(), 1 << 30).unwrap().memory() < 64 << 10);
}

#[test]
fn a_window_that_costs_more_than_it_is_worth_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(b"x").unwrap();
    assert_eq!(decompress(Encoding::Zstd, &encoder.finish().unwrap(), 1 << 20), Err(Unusable::Malformed));
}

#[test]
fn steps_come_to_the_same() {
    for encoding in ALL {
        let encoded = compress(encoding, &[text(10_000)]);
        let mut decoder = Decoder::new(encoding, encoded, 10_000).unwrap();
        let mut steps = 1;
        while !decoder.step(1000).unwrap() {
            steps += 1;
        }
        assert_eq!(decoder.into_decoded(), text(10_000));
        assert_eq!(steps, 11, "{encoding:?}");
    }
}

#[test]
fn names_are_those_of_http_and_grpc() {
    for encoding in ALL {
        assert_eq!(Encoding::by_name(encoding.name().as_bytes()), Some(encoding));
        assert!(Encoding::ACCEPTED.split(',').any(|name| name == encoding.name()));
    }
    assert_eq!(Encoding::by_name(b"snappy"), None);
}
