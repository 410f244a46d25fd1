"""Speed, measured beside what people use today: python -m benchmarks."""
