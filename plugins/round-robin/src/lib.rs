//! The host's strategy `roundRobin` as a component: the same code. It has no configuration.

use parti_coordination::strategy::RoundRobin as BuiltIn;
use parti_guest::{Error, Request, Strategy};

struct RoundRobin;

impl Strategy for RoundRobin {
    fn assign(request: &Request) -> Result<Vec<u32>, Error> {
        built_in::answer(&BuiltIn, request)
    }
}

parti_guest::export!(RoundRobin as strategy);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::testing;

    #[test]
    fn every_worker_gets_as_many() {
        let fleet = testing::strategy().worker("worker-0", []).worker("worker-1", []).worker("worker-2", []);
        let owners = fleet.partitions((0..30).map(|n| format!("p.{n}"))).assign::<RoundRobin>().unwrap();
        for worker in ["worker-0", "worker-1", "worker-2"] {
            assert_eq!(owners.iter().filter(|owner| *owner == worker).count(), 10, "{owners:?}");
        }
    }
}
