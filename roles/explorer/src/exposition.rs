//! Reading a role's `/metrics`.

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With its suffix.
    pub name: String,
    /// In order.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// All samples of a role.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

/// Lines that are kept: a role that counts without bound must not fill our memory.
const MAX_SAMPLES: usize = 20_000;

impl Samples {
    /// Reads either text format; lines that are none are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).take(MAX_SAMPLES).collect())
    }

    /// Sum of all samples of a name, over all labels.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let mut samples = self.0.iter().filter(|sample| sample.name == name).peekable();
        samples.peek()?;
        Some(samples.map(|sample| sample.value).sum())
    }

    /// The upper bound of the bucket in which a quantile (0 to 1) of a histogram lies, over all labels. `None` where
    /// nothing was observed; infinity where the last bucket is not enough.
    pub fn quantile(&self, family: &str, quantile: f64) -> Option<f64> {
        let name = format!("{family}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.0.iter().filter(|sample| sample.name == name) {
            let bound = match sample.label("le")? {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().ok()?,
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last()?.1;
        let wanted = total * quantile;
        let found = buckets.iter().find(|(_, count)| *count >= wanted);
        found.map(|(bound, _)| *bound).filter(|_| total > 0.0)
    }

    /// Observations of a histogram, over all labels.
    pub fn count(&self, family: &str) -> f64 {
        self.sum(&format!("{family}_count")).unwrap_or(0.0)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// `a="x",b="y"} rest`
fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read() {
        let text = "# HELP a b\na_total{x=\"1\",y=\"q\\\"}\\n\"} 3\na_total{x=\"2\"} 4.5 1700000000\nb NaN\nc\n{\nd{x=\"\nup 1\n# EOF\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.sum("a_total"), Some(7.5));
        assert_eq!(samples.0[0].label("y"), Some("q\"}\n"));
        assert_eq!(samples.sum("up"), Some(1.0));
        assert_eq!(samples.sum("c"), None);
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let text = "h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"1.0\"} 9\nh_bucket{le=\"+Inf\"} 10\nh_count 10\nh_sum 4\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.quantile("h", 0.5), Some(1.0));
        assert_eq!(samples.quantile("h", 0.05), Some(0.1));
        assert_eq!(samples.quantile("h", 0.99), Some(f64::INFINITY));
        assert_eq!(samples.count("h"), 10.0);
        assert_eq!(samples.quantile("other", 0.5), None);
        let none = Samples::parse("h_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 0\n");
        assert_eq!(none.quantile("h", 0.5), None);
    }
}
