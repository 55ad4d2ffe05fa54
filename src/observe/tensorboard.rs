//! TensorBoard event files: length-prefixed, checksummed protocol buffers.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::Message;
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::{HistogramProto, Summary, Summary_Value};

/// Number of bars of a histogram.
const BINS: usize = 30;

/// The first event of a file.
pub fn file_version() -> io::Result<Vec<u8>> {
    let mut event = Event::new();
    event.set_file_version("brain.Event:2".into());
    record(event)
}

/// One event with all numbers and histograms of an iteration, at `step` of the x axis.
pub fn event<'a>(
    step: u64,
    scalars: impl Iterator<Item = (&'a str, f64)>,
    histograms: &[(String, Vec<f32>)],
) -> io::Result<Vec<u8>> {
    let mut summary = Summary::new();
    for (tag, value) in scalars {
        let mut entry = Summary_Value::new();
        entry.set_tag(tag.into());
        entry.set_simple_value(value as f32);
        summary.value.push(entry);
    }
    for (tag, samples) in histograms {
        if let Some(histogram) = histogram(samples) {
            let mut entry = Summary_Value::new();
            entry.set_tag(tag.clone());
            entry.set_histo(histogram);
            summary.value.push(entry);
        }
    }
    let mut event = Event::new();
    event.set_step(step as i64);
    event.set_summary(summary);
    record(event)
}

/// Equal bins between the extremes; `None` without samples.
fn histogram(samples: &[f32]) -> Option<HistogramProto> {
    let (low, high) =
        samples.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x.into()), h.max(x.into())));
    if low > high {
        return None;
    }
    let width = ((high - low) / BINS as f64).max(f64::MIN_POSITIVE);
    let mut counts = vec![0.0; BINS];
    for &x in samples {
        counts[(((f64::from(x) - low) / width) as usize).min(BINS - 1)] += 1.0;
    }
    let mut histogram = HistogramProto::new();
    histogram.set_min(low);
    histogram.set_max(high);
    histogram.set_num(samples.len() as f64);
    histogram.set_sum(samples.iter().map(|&x| f64::from(x)).sum());
    histogram.set_sum_squares(samples.iter().map(|&x| f64::from(x).powi(2)).sum());
    histogram.set_bucket_limit((1..=BINS).map(|i| low + width * i as f64).collect());
    histogram.set_bucket(counts);
    Some(histogram)
}

fn record(mut event: Event) -> io::Result<Vec<u8>> {
    event.set_wall_time(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()));
    let data = event.write_to_bytes().map_err(io::Error::other)?;
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.write_all(&length)?;
    bytes.write_all(&masked_crc(&length).to_le_bytes())?;
    bytes.write_all(&data)?;
    bytes.write_all(&masked_crc(&data).to_le_bytes())?;
    Ok(bytes)
}

/// The record format's checksum: CRC-32C, rotated and shifted so that a checksum of checksums is not degenerate.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_by_hand() {
        // 0 to 30 in thirty bins of width 1, the largest with the one below it: sum 30 · 31 / 2, squares 30 · 31 · 61 / 6.
        let samples: Vec<f32> = (0..=30u8).map(f32::from).collect();
        let bars = histogram(&samples).expect("there are samples");
        assert_eq!((bars.get_min(), bars.get_max(), bars.get_num()), (0.0, 30.0, 31.0));
        assert_eq!((bars.get_sum(), bars.get_sum_squares()), (465.0, 9455.0));
        let limits: Vec<f64> = (1..=30u8).map(f64::from).collect();
        assert_eq!(bars.get_bucket_limit(), limits);
        assert_eq!(bars.get_bucket(), [&[1.0; 29][..], &[2.0]].concat());
        assert!(histogram(&[]).is_none());
    }
}
