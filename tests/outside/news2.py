"""Compares lines of `examples/news2.rs` with vitalscore, sub-score by sub-score summed."""

import sys

from vitalscore.scores import news2 as theirs

LEVELS = ["A", "C", "V", "P", "U"]


def expected(scale, rr, spo2, oxygen, sbp, hr, acvpu, temperature):
    result = theirs.NEWS2Result(
        respiratory_rate=int(float(rr)),
        spo2=float(spo2),
        on_oxygen=float(oxygen) > 0,
        systolic_bp=int(float(sbp)),
        heart_rate=int(float(hr)),
        consciousness=theirs.ACVPULevel(LEVELS[int(float(acvpu))]),
        temperature=float(temperature),
        use_spo2_scale2=scale == "2",
    )
    parts = [
        result.rr_score, result.spo2_score, result.o2_score, result.sbp_score,
        result.hr_score, result.consciousness_score, result.temp_score,
    ]
    total = sum(parts)
    band = "High" if total >= 7 else "Medium" if total >= 5 else "LowMedium" if 3 in parts else "Low"
    return total, band


count = 0
for line in sys.stdin:
    *values, score, band = line.strip().split(",")
    wanted = expected(*values)
    if wanted != (int(score), band):
        sys.exit(f"news2: {line.strip()} differs: vitalscore says {wanted}")
    count += 1
if count < 1_000_000:
    sys.exit(f"news2: only {count} combinations came")
print(f"news2: {count} combinations agree with vitalscore")
