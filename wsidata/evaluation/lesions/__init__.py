"""Heat maps and detections scored against outlined lesions."""

from wsidata.evaluation.lesions.froc import Froc as Froc
from wsidata.evaluation.lesions.froc import lesion_froc as lesion_froc
from wsidata.evaluation.lesions.heat_maps import find_detections as find_detections
from wsidata.evaluation.lesions.heat_maps import outline_scores as outline_scores
from wsidata.evaluation.lesions.lesion_map import Detections as Detections
from wsidata.evaluation.lesions.lesion_map import LesionError as LesionError
from wsidata.evaluation.lesions.lesion_map import LesionHits as LesionHits
from wsidata.evaluation.lesions.lesion_map import LesionMap as LesionMap
