"""The grid of accuracies that the paper prints, which its published rows and means must follow from."""

from nopsd.reporting.cross_domain import PAPER

DOMAINS = PAPER.domains
ROWS = {  # the paper's Table 7, N-OPSD rows
    "Biology": (74.02, 72.96, 82.87, 71.97, 66.31, 69.46),
    "Material": (73.83, 73.39, 83.13, 72.83, 65.34, 71.22),
    "Physics": (74.78, 73.71, 83.13, 71.93, 65.20, 71.24),
    "Chemistry": (74.24, 73.69, 83.21, 72.03, 65.45, 71.36),
    "edu_feedback": (75.13, 73.14, 83.02, 72.85, 72.19, 71.96),
    "mmlu_pro": (74.43, 73.46, 83.47, 73.03, 64.33, 72.04),
}
GRID = {source: dict(zip(DOMAINS, row, strict=True)) for source, row in ROWS.items()}
BASE = dict(zip(DOMAINS, (73.98, 71.12, 80.20, 72.11, 64.95, 72.16), strict=True))
