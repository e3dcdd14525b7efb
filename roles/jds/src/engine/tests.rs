mod declarations;
mod hostile;
mod setup;
mod sim;
mod solutions;
