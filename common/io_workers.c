#include "io_workers.h"
#include "check.h"
#include "err.h"
#include <pthread.h>
#include <signal.h>

#define IO_WORKERS_MAX 64

struct job_queue {
    struct io_job *head, *tail;
};

struct io_workers {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job_queue todo, finished;
    bool ending;
    unsigned wanted, running;
    pthread_t threads[IO_WORKERS_MAX];
    void (*notify)(void *arg);
    void *arg;
};

static void queue_push(struct job_queue *queue, struct io_job *job)
{
    job->next = NULL;
    if (queue->tail != NULL)
        queue->tail->next = job;
    else
        queue->head = job;
    queue->tail = job;
}

static struct io_job *queue_pop(struct job_queue *queue)
{
    struct io_job *job = queue->head;
    queue->head = job->next;
    if (queue->head == NULL)
        queue->tail = NULL;
    return job;
}

static void *worker(void *arg)
{
    struct io_workers *workers = arg;
    pthread_mutex_lock(&workers->lock);
    for (;;) {
        while (workers->todo.head == NULL && !workers->ending)
            pthread_cond_wait(&workers->wake, &workers->lock);
        if (workers->todo.head == NULL)
            break;
        struct io_job *job = queue_pop(&workers->todo);
        pthread_mutex_unlock(&workers->lock);
        job->fn(job->arg);
        pthread_mutex_lock(&workers->lock);
        queue_push(&workers->finished, job);
        /* Under the lock: the owner cannot take the job, see its end and destroy us in between. */
        workers->notify(workers->arg);
    }
    pthread_mutex_unlock(&workers->lock);
    return NULL;
}

struct io_workers *io_workers_create(unsigned threads, void (*notify)(void *arg), void *arg)
{
    struct io_workers *workers = calloc(1, sizeof *workers);
    if (workers == NULL)
        return NULL;
    pthread_mutex_init(&workers->lock, NULL);
    pthread_cond_init(&workers->wake, NULL);
    workers->wanted = MIN(threads, (unsigned)IO_WORKERS_MAX);
    workers->notify = notify;
    workers->arg = arg;
    return workers;
}

static void start_threads(struct io_workers *workers)
{
    sigset_t all, before;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    while (workers->running < workers->wanted &&
           pthread_create(&workers->threads[workers->running], NULL, worker, workers) == 0)
        workers->running++;
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

int io_workers_submit(struct io_workers *workers, struct io_job *job)
{
    if (workers->running == 0)
        start_threads(workers);
    if (workers->running == 0)
        return -E_NOMEM;
    pthread_mutex_lock(&workers->lock);
    queue_push(&workers->todo, job);
    pthread_cond_signal(&workers->wake);
    pthread_mutex_unlock(&workers->lock);
    return 0;
}

struct io_job *io_workers_take(struct io_workers *workers)
{
    pthread_mutex_lock(&workers->lock);
    struct io_job *jobs = workers->finished.head;
    workers->finished = (struct job_queue){0};
    pthread_mutex_unlock(&workers->lock);
    return jobs;
}

void io_workers_destroy(struct io_workers *workers)
{
    if (workers == NULL)
        return;
    pthread_mutex_lock(&workers->lock);
    workers->ending = true;
    pthread_cond_broadcast(&workers->wake);
    pthread_mutex_unlock(&workers->lock);
    for (unsigned i = 0; i < workers->running; i++)
        CHECK(pthread_join(workers->threads[i], NULL) == 0);
    CHECK(workers->todo.head == NULL && workers->finished.head == NULL);
    pthread_cond_destroy(&workers->wake);
    pthread_mutex_destroy(&workers->lock);
    free(workers);
}
