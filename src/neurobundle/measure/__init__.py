"""Scores against a reference, with a policy for misses: docs/concepts/metrics.md. Light until it is used."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "LesionRule": "lesions",
        "Overlap": "overlap",
        "Score": "segmentation",
        "SegmentationEvaluation": "evaluation",
        "SegmentationMetric": "metrics",
        "SegmentationMetricHandler": "metrics",
        "SegmentationReport": "handlers",
        "SurfaceDistances": "surface",
        "failed_case": "segmentation",
        "joint_counts": "overlap",
        "read_scores": "tables",
        "score_case": "segmentation",
        "score_lesions": "lesions",
        "structure_distances": "surface",
        "summarise": "summary",
        "surface_distances": "surface",
        "write_scores": "tables",
    },
)
