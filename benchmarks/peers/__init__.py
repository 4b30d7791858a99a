"""The peers this service is compared with: common stacks that give the same answers, each well tuned."""
