"""Work on many images, spread over an executor or shared by several jobs."""
