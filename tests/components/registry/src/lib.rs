//! A source that lists `p-00` to `p-NN`, or goes wrong.
//!
//! Configuration: `count` (of partitions) and `how` it goes wrong: `error`, `trap`, `hang`, `bomb`, `twice`, `empty-key`, `weightless`,
//! `flood`. Without `how` it does not. It logs a line each time that it is asked.

use parti_guest::{Error, Listed, Source, config, log};

struct Registry;

impl Source for Registry {
    fn list_partitions() -> Result<Vec<Listed>, Error> {
        let count: usize = config::get("count").ok_or("no `count`")?.parse()?;
        let right = || (0..count).map(|n| Listed::new([format!("p-{n:02}")]));
        log::info!("asked for {count} partitions");
        match config::get("how").as_deref() {
            None => Ok(right().collect()),
            Some("error") => Err("the registry is closed".into()),
            Some("hang") => loop {
                std::hint::black_box(());
            },
            Some("bomb") => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            Some("none") => Ok(Vec::new()),
            Some("twice") => Ok(right().chain(right().take(1)).collect()),
            Some("empty-key") => Ok(right().chain([Listed::new([""])]).collect()),
            Some("weightless") => Ok(right().map(|listed| listed.weighing(0)).collect()),
            Some("flood") => Ok(vec![Listed::new(["x".repeat(100)]); 300_000]),
            Some(how) => panic!("as configured: {how}"),
        }
    }
}

parti_guest::export!(Registry as source);
