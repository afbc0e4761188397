//! A strategy that keeps what is there and gives the rest in turn, or goes wrong.
//!
//! Configuration: `how` it goes wrong: `error`, `trap`, `hang`, `bomb`, `short`, `long`, `range`, `flood`; without it, it does not. With
//! `from`, it goes wrong as long as there are so many workers or more.

use parti_guest::{Error, Request, Strategy, config, log};

struct Oracle;

impl Strategy for Oracle {
    fn assign(request: &Request) -> Result<Vec<u32>, Error> {
        let workers = u32::try_from(request.workers.len())?;
        let labels: Vec<_> = request.workers.iter().map(|worker| worker.label("zone").unwrap_or("none")).collect();
        log::info!("asked for {}: {} partitions, zones {}", request.reason, request.partitions.len(), labels.join(","));
        let turns = (0..workers).cycle();
        let right = || request.previous.iter().zip(turns.clone()).map(|(before, turn)| before.unwrap_or(turn));
        let from: u32 = config::get("from").map_or(Ok(0), |from| from.parse())?;
        match config::get("how").filter(|_| workers >= from).as_deref() {
            None => Ok(right().collect()),
            Some("error") => Err("the stars are not right".into()),
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
            Some("short") => Ok(right().skip(1).collect()),
            Some("long") => Ok(right().chain([0]).collect()),
            Some("range") => Ok(right().map(|index| index + workers).collect()),
            Some("flood") => Ok(vec![0; 5_000_000]),
            Some(how) => panic!("as configured: {how}"),
        }
    }
}

parti_guest::export!(Oracle as strategy);
