//! Times, sizes, numbers and signals, as people write and read them.

use core::ops::RangeInclusive;
use core::time::Duration;

use nix::sys::signal::Signal;
use protocol::limits::TIMEOUT_MS_MAX;

/// The shortest time, in seconds: the guard counts milliseconds.
const SHORTEST: f64 = 0.001;

/// A time that a program may run: as many milliseconds as an order can say.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = "a time, like 0.5, 500ms, 3s, 2m or 1h, of at least 1ms and at most 1193h";
    parsed(text, 4_294_967.0).ok_or_else(|| wrong.to_owned())
}

/// A time that a launch may take.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = "a time, like 0.5, 500ms, 3s or 2m, of at least 1ms and at most 1h";
    parsed(text, f64::from(TIMEOUT_MS_MAX / 1_000)).ok_or_else(|| wrong.to_owned())
}

/// Seconds of a processor, which the kernel counts whole.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, String> {
    let whole = time(text).ok().filter(|time| time.subsec_nanos() == 0);
    whole
        .map(|time| time.as_secs())
        .ok_or_else(|| "a time in whole seconds, like 1, 3s or 2m".to_owned())
}

/// Seconds, where no unit says otherwise.
fn parsed(text: &str, longest: f64) -> Option<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let with_unit = |(unit, seconds)| text.strip_suffix(unit).map(|number| (number, seconds));
    let (number, unit) = units.into_iter().find_map(with_unit).unwrap_or((text, 1.0));
    let seconds = number.parse::<f64>().ok()? * unit;
    (SHORTEST..=longest).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// A number of bytes, with K, M or G for powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits, text.as_bytes()[text.len() - 1]),
        None => (text, b'B'),
    };
    let shift = match unit {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => 0,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "a number of bytes below 2^64, or one with K, M or G, like 64M".to_owned())
}

/// The same the other way round, with one digit after the point.
pub(crate) fn sized(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, name)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        None => bytes.to_string(),
    }
}

/// A block's size, of those that squashfs has.
pub(crate) fn block_size(text: &str) -> Result<u32, String> {
    let found = u32::try_from(size(text)?).ok().filter(|size| size.is_power_of_two());
    let found = found.filter(|size| (4096..=1 << 20).contains(size));
    found.ok_or_else(|| "a power of two from 4K to 1M".to_owned())
}

/// A number of processors, in thousandths.
pub(crate) fn millis(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is in range"
        )]
        Ok(number @ 0.0..=1e6) => Ok((number * 1000.0).round() as u32),
        _ => Err("a number of processors, such as 0.5".to_owned()),
    }
}

/// A whole number in a range that `T` can hold.
pub(crate) fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let found = text.parse().ok().filter(|number| range.contains(number));
        let found = found.and_then(|number| T::try_from(number).ok());
        found.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A signal by number or name, as `kill(1)` has it.
pub(crate) fn signal(text: &str) -> Result<u8, String> {
    let name = text.to_ascii_uppercase();
    let named = format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name)).parse::<Signal>();
    let named = named.ok().and_then(|signal| u8::try_from(signal as i32).ok());
    named
        .or_else(|| number(1..=64)(text).ok())
        .ok_or_else(|| "a signal, like TERM or 15".to_owned())
}

/// As large as it can be said.
pub(crate) fn whole(text: &str) -> Result<u32, String> {
    number(0..=u32::MAX.into())(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, wanted) in [("TERM", 15), ("SIGTERM", 15), ("usr1", 10), ("9", 9), ("64", 64)] {
            assert_eq!(signal(text), Ok(wanted), "{text}");
        }
        for text in ["", "SIG", "TRM", "0", "65", "-15", "SIGSIGTERM"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("0.5", 500),
            ("1", 1_000),
            ("3600.5", 3_600_500),
            ("3s", 3_000),
            ("1.5s", 1_500),
            ("500ms", 500),
            ("1ms", 1),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let wrong = [
            "", "0", "0s", "0.5ms", "-1", "nan", "inf", "1e9", "5000000", "abc", "s", "1 s", "1d",
            "1S",
        ];
        for text in wrong {
            assert!(time(text).unwrap_err().starts_with("a time, like"), "{text}");
        }
    }

    #[test]
    fn a_launch_has_an_hour_at_most() {
        assert_eq!(timeout("1h"), Ok(Duration::from_millis(TIMEOUT_MS_MAX.into())));
        assert!(timeout("3601").unwrap_err().ends_with("at most 1h"));
    }

    #[test]
    fn processors_count_whole_seconds() {
        assert_eq!(["1", "1s", "1000ms", "2m"].map(whole_seconds), [1, 1, 1, 120].map(Ok));
        for wrong in ["0", "-1", "0.5", "1500ms", "abc"] {
            assert!(whole_seconds(wrong).unwrap_err().contains("whole seconds"), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(["7", "2K", "16M", "1G"].map(size), [7, 2048, 16 << 20, 1 << 30].map(Ok));
        for wrong in ["", "K", "1T", "-1", "1.5M", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let told = [
            (0, "0"),
            (1_023, "1023"),
            (1 << 10, "1.0K"),
            (1_290_000, "1.2M"),
            (64 << 20, "64.0M"),
            ((1 << 30) - 1, "1023.9M"),
            (u64::MAX, "17179869183.9G"),
        ];
        for (bytes, text) in told {
            assert_eq!(sized(bytes), text);
        }
    }

    #[test]
    fn block_sizes_are_powers_of_two() {
        assert_eq!(["4K", "131072", "1M"].map(block_size), [4096, 131_072, 1 << 20].map(Ok));
        for wrong in ["", "0", "2K", "2M", "100K", "1G", "8589934592G"] {
            assert!(block_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn processors_have_parts() {
        assert_eq!(["0.5", "2", "0.01"].map(millis), [500, 2000, 10].map(Ok));
        for wrong in ["", "-1", "nan", "inf", "1e9", "a"] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(["1", "256"].map(number::<u16>(1..=256)), [1, 256].map(Ok));
        for wrong in ["", "0", "257", "-1", "x", "1.0", "99999999999999999999"] {
            let said = number::<u16>(1..=256)(wrong);
            assert_eq!(said, Err("a whole number from 1 to 256".to_owned()), "{wrong}");
        }
    }
}
