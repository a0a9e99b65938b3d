"""Prediction tables of classifiers, their scores and figures."""

from wsidata.evaluation.figures import plot_confusion as plot_confusion
from wsidata.evaluation.figures import plot_mistakes as plot_mistakes
from wsidata.evaluation.figures import plot_roc as plot_roc
from wsidata.evaluation.intervals import scores_with_intervals as scores_with_intervals
from wsidata.evaluation.prediction_file import PredictionFileError as PredictionFileError
from wsidata.evaluation.predictions import PredictionError as PredictionError
from wsidata.evaluation.predictions import mistakes as mistakes
from wsidata.evaluation.predictions import prediction_table as prediction_table
from wsidata.evaluation.predictions import read_predictions as read_predictions
from wsidata.evaluation.report.write import write_report as write_report
from wsidata.evaluation.save import read_scores as read_scores
from wsidata.evaluation.save import save_figure as save_figure
from wsidata.evaluation.save import save_table as save_table
from wsidata.evaluation.scores import accuracy as accuracy
from wsidata.evaluation.scores import auroc as auroc
from wsidata.evaluation.scores import balanced_accuracy as balanced_accuracy
from wsidata.evaluation.scores import quadratic_kappa as quadratic_kappa
from wsidata.evaluation.scores import scores_by_class as scores_by_class
from wsidata.evaluation.scores import scores_by_split as scores_by_split
from wsidata.evaluation.summary import summarize as summarize
from wsidata.evaluation.summary import summarize_folds as summarize_folds
from wsidata.evaluation.writer import PredictionWriter as PredictionWriter
